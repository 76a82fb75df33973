"""Whether the processes of a machine do what they are for."""

from __future__ import annotations

import http
import http.client
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchinfer.services import upkeep
from batchinfer.store import fleet, leases

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.stack.supervisor import Place
    from batchinfer.store.fleet import Replica

ANSWER_S = 2.0


@dataclass(frozen=True)
class Signs:
    """What the database knows of this host's processes."""

    #: Process ids that hold a living lease.
    leased: frozenset[int]
    #: Of these, the model workers whose replica is ready.
    ready: frozenset[int]
    #: Why model workers of this start could not load their model, by the name of their place.
    failed: dict[str, str]
    #: Seconds since the last tick of anybody.
    ticked_s: float


def read_signs(ctx: Context, earlier: Collection[UUID] = ()) -> Signs:
    """Leases, replicas (none of the `earlier` ones) and ticks. Raises Unavailable."""
    with ctx.db.transaction() as tx:
        workers = [found for found in leases.list_workers(tx) if not found.dead]
        replicas = [found for found in fleet.list_replicas(tx) if found.id not in earlier]
    host = socket.gethostname()
    here = [found for found in workers if found.host == host]
    ready = {found.lease_id for found in replicas if found.state == "ready"}
    failed = [found for found in replicas if found.worker.endswith(f"@{host}") and _cannot_load(found)]
    ticked_s = upkeep.seconds_since_tick(ctx)
    return Signs(
        leased=frozenset(found.pid for found in here),
        ready=frozenset(found.pid for found in here if found.lease_id in ready),
        failed={found.worker.partition("@")[0]: (found.error or {}).get("message", "") for found in failed},
        ticked_s=float("inf") if ticked_s is None else ticked_s,
    )


def _cannot_load(replica: Replica) -> bool:
    """Whether its worker said so; one that was lost meanwhile says nothing about the model."""
    return replica.state == "failed" and replica.error is not None and replica.error.get("code") != "worker_lost"


def list_replica_ids(ctx: Context) -> frozenset[UUID]:
    """The replicas that the database knows, running or ended. Raises Unavailable."""
    with ctx.db.transaction() as tx:
        return frozenset(found.id for found in fleet.list_replicas(tx))


def find_unhealthy(places: Sequence[Place], signs: Signs, url: str) -> list[Place]:
    """Places that do not work yet: web answers, beat ticked, CPU workers hold leases, models are ready."""
    return [place for place in places if not _works(place, signs, url)]


def _works(place: Place, signs: Signs, url: str) -> bool:
    if place.child is None or not place.child.alive:
        return False
    if place.role == "web":
        return answers(url)
    if place.role == "beat":
        return signs.ticked_s <= place.child.age_s
    if place.role == "cpu":
        return place.child.pid in signs.leased
    if place.role == "model":
        return place.child.pid in signs.ready
    return True


def answers(url: str) -> bool:
    """Whether the web server says that it is alive."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
