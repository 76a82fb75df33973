"""Hosts and replicas over HTTP: list them, drain and resume; and what happened in the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api import deployment_schemas as schemas
from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply
from batchinfer.api.deployments import show_replica
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import FleetEventsQuery, HostPath, ReplicaPath
from batchinfer.api.state import current
from batchinfer.domain.ids import DEFAULT_TENANT, DEPLOYMENT, EVENT, REPLICA, parse_id, show_id
from batchinfer.services import fleet, hosts

if TYPE_CHECKING:
    from batchinfer.store.events import StoredEvent
    from batchinfer.store.hosts import Host

routes = APIBlueprint(
    "hosts",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "fleet"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
_PREFIXES = {"deployment": DEPLOYMENT, "replica": REPLICA, "model": "model_", "host": "host_"}


@routes.get("/hosts", operation_id="list_hosts", responses={200: schemas.HostList})
def list_hosts() -> Response:
    """Machines with a keeper, which start and end the model workers of deployments; by name."""
    return reply(schemas.HostList(data=[show_host(host) for host in hosts.list_hosts(current().context, caller())]))


@routes.post("/hosts/<host>/drain", operation_id="drain_host", responses={200: schemas.HostBody})
def drain_host(path: HostPath) -> Response:
    """Place nothing on a host any more; what is there ends what runs, and ends. Twice is as once."""
    return reply(show_host(hosts.drain_host(current().context, caller(), path.host)))


@routes.post("/hosts/<host>/resume", operation_id="resume_host", responses={200: schemas.HostBody})
def resume_host(path: HostPath) -> Response:
    """Take a host back. Twice is as once."""
    return reply(show_host(hosts.resume_host(current().context, caller(), path.host)))


@routes.get("/replicas", operation_id="list_replicas", responses={200: schemas.ReplicaList})
def list_replicas() -> Response:
    """Replicas that live, those that were started by hand too, then those that ended in the last hour."""
    found = fleet.list_replicas(current().context, caller())
    return reply(schemas.ReplicaList(data=[show_replica(one) for one in found]))


@routes.post(
    "/replicas/<replica_id>/drain", operation_id="drain_replica", responses={200: schemas.ReplicaBody, **refusals(409)}
)
def drain_replica(path: ReplicaPath) -> Response:
    """Let one replica end what runs, and end; where it is still wanted, another one is loaded. Twice is as once."""
    caller().require("launch")
    replica_id = parse_id(REPLICA, path.replica_id)
    return reply(show_replica(hosts.drain_replica(current().context, caller(), replica_id)))


@routes.get("/fleet/events", operation_id="list_fleet_events", responses={200: schemas.FleetEventList})
def list_fleet_events(query: FleetEventsQuery) -> Response:
    """What happened to models, deployments, replicas and hosts, newest first."""
    deployment_id = read_cursor(DEPLOYMENT, query.deployment, "deployment")
    page = hosts.list_events(
        current().context, caller(), subject="deployment" if deployment_id else query.subject,
        subject_id=deployment_id, after=read_cursor(EVENT, query.after), limit=query.limit,
    )  # fmt: skip
    return reply(schemas.FleetEventList(**show_page(page, show_event)))


def show_host(host: Host) -> schemas.HostBody:
    """A host as operators see it."""
    return schemas.HostBody(
        id=host.host,
        status="alive" if host.alive else "silent",
        draining=host.draining,
        devices=[schemas.DeviceBody(**vars(device), **vars(host.find_load(device.name))) for device in host.devices],
        labels=host.labels,
        started_at=int(host.started_at.timestamp()),
        heartbeat_at=int(host.heartbeat_at.timestamp()),
    )


def show_event(stored: StoredEvent) -> schemas.FleetEventBody:
    """An event of the fleet; who did it is told to the first tenant's keys alone."""
    event = stored.event
    return schemas.FleetEventBody(
        id=show_id(EVENT, stored.id),
        type=f"{event.subject}.{event.event}",
        subject_id=show_id(_PREFIXES[event.subject], event.subject_id),
        actor=event.actor if caller().tenant_id == DEFAULT_TENANT else None,
        data=event.data,
        created_at=int(event.created_at.timestamp()) if event.created_at else 0,
    )
