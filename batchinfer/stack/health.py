"""Whether the processes of a machine do what they are for."""

from __future__ import annotations

import http
import http.client
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchinfer.services import upkeep
from batchinfer.services.placing import NO_ROOM
from batchinfer.store import deployments, fleet, leases

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.stack.supervisor import Place
    from batchinfer.store.fleet import Replica

ANSWER_S = 2.0


@dataclass(frozen=True)
class Signs:
    """What the database knows of this host's processes, and of the model that this start is about."""

    #: Process ids that hold a living lease.
    leased: frozenset[int]
    #: Seconds since the last tick of anybody.
    ticked_s: float
    #: Replicas of the model that were planned since this start, by the name of their place.
    ready: frozenset[str] = frozenset()
    #: Why one could not load it.
    failed: tuple[tuple[str, str], ...] = ()
    #: Those whose process ended while it loaded.
    lost: tuple[str, ...] = ()
    #: Why it finds no room; empty where it does.
    unplaced: str = ""
    #: Nobody wants it at the moment: it sleeps, or was stopped.
    unwanted: bool = False


def read_signs(ctx: Context, deployment_id: UUID | None = None, earlier: Collection[UUID] = ()) -> Signs:
    """Leases, ticks, and the replicas of a deployment but for the `earlier` ones. Raises Unavailable."""
    with ctx.db.transaction() as tx:
        workers = [found for found in leases.list_workers(tx) if not found.dead]
        replicas = [found for found in fleet.list_replicas(tx) if found.id not in earlier]
        wanted = [found for found in deployments.list_wanted(tx) if found.id == deployment_id]
    ours = [found for found in replicas if found.deployment_id == deployment_id]
    ticked_s = upkeep.seconds_since_tick(ctx)
    error = (wanted[0].error or {}) if wanted else {}
    return Signs(
        leased=frozenset(found.pid for found in workers if found.host == ctx.settings.machine_name),
        ticked_s=float("inf") if ticked_s is None else ticked_s,
        ready=frozenset(_name(found) for found in ours if found.state == "ready"),
        failed=tuple((_name(found), (found.error or {}).get("message", "")) for found in ours if _cannot_load(found)),
        lost=tuple(_name(found) for found in ours if found.state == "failed" and not _cannot_load(found)),
        unplaced=str(error.get("message", "")) if error.get("code") == NO_ROOM else "",
        unwanted=not wanted or wanted[0].asleep or not wanted[0].replicas,
    )


def _name(replica: Replica) -> str:
    return replica.worker.partition("@")[0]


def _cannot_load(replica: Replica) -> bool:
    """Whether its worker said so; one that was lost meanwhile says nothing about the model."""
    return replica.state == "failed" and replica.error is not None and replica.error.get("code") != "worker_lost"


def list_replica_ids(ctx: Context) -> frozenset[UUID]:
    """The replicas that the database knows, running or ended. Raises Unavailable."""
    with ctx.db.transaction() as tx:
        return frozenset(found.id for found in fleet.list_replicas(tx))


def find_unhealthy(places: Sequence[Place], signs: Signs, url: str) -> list[Place]:
    """Places that do not work yet: web answers, beat ticked, CPU workers hold leases; not those of models."""
    return [place for place in places if place.role != "model" and not _works(place, signs, url)]


def _works(place: Place, signs: Signs, url: str) -> bool:
    if place.child is None or not place.child.alive:
        return False
    if place.role == "web":
        return answers(url)
    if place.role == "beat":
        return signs.ticked_s <= place.child.age_s
    if place.role == "cpu":
        return place.child.pid in signs.leased
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
