"""Wishes made true: what should run is compared with what runs, and the difference is written for the keepers.

Anybody may call `reconcile`, as often as they like: one does it at a time, and twice is as once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.domain.placement import is_idle, place
from batchinfer.domain.placing_facts import Machine, Placement, Room, Standing, Start, Wish
from batchinfer.domain.replicas import ReplicaState, Wanted
from batchinfer.errors import Failure
from batchinfer.services import swapping
from batchinfer.services.memory import WEIGHTLESS, estimate_replica
from batchinfer.store import deployments, events, hosts, placing
from batchinfer.store.deployments import Deployment
from batchinfer.store.events import Event
from batchinfer.store.session import Transaction, read_now

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.placing import Kept

#: What a deployment's error says where its replicas find no room.
NO_ROOM = "no_room"
#: Silence of a host that ended in order, after which what it drained is over.
ENDED_GRACE_S = 5.0
#: Pause before another try of a revision that failed while a swap was under way.
HOLD_NEXT_S = 10.0
_ACTOR = "placement"


class Estimated(Protocol):
    """What a replica is expected to take: a dataclass, whose further fields say of what."""

    @property
    def total_mib(self) -> int: ...
    def as_json(self) -> dict[str, Any]: ...


#: Of a deployment whose `revision` is the one that is meant. None: nobody knows.
Estimate = Callable[[Transaction, Deployment], Estimated | None]


def reconcile(ctx: Context, estimate: Estimate = estimate_replica) -> Placement | None:
    """Place what is wanted, drain what is not. Answers what was done; None where somebody else is at it.

    Raises Unavailable.
    """
    silent_s = ctx.settings.lease_ttl_s
    with ctx.db.transaction() as tx:
        if not placing.try_lock(tx) or not placing.is_anything_kept(tx, silent_s=silent_s):
            return None
        return _Reconciling(tx, estimate, silent_s).run()


class _Reconciling:
    """One look, in one transaction."""

    def __init__(self, tx: Transaction, estimate: Estimate, silent_s: float) -> None:
        self._tx, self._estimate, self._silent_s = tx, estimate, silent_s
        self._plans: dict[tuple[UUID, str], dict[str, Any]] = {}

    def run(self) -> Placement:
        tx = self._tx
        self._end_lost()
        wanted = deployments.list_wanted(tx)
        steps = [swapping.advance(tx, each) for each in wanted]
        if any(steps):
            wanted = deployments.list_wanted(tx)
        # What is not fetched yet is not placed.
        wanted = [each for each in wanted if each.path or each.engine in WEIGHTLESS]
        kept = placing.list_kept(tx)
        machines = self._list_machines()
        standing = [_read_standing(found) for found in kept]
        now = read_now(tx)
        wishes = self._list_wishes(wanted, standing, now)
        found = place(wishes, machines, standing, now)
        self._write(found, {each.id: each for each in wanted}, kept)
        return found

    def _end_lost(self) -> None:
        error = Failure("The host of the model fell silent.", code="worker_lost").as_dict()
        lost = placing.end_lost(self._tx, error, silent_s=self._silent_s, grace_s=ENDED_GRACE_S)
        self._record("replica", {replica_id: ("failed", {"code": "worker_lost"}) for replica_id in lost})

    def _list_machines(self) -> list[Machine]:
        return [
            Machine(
                found.host,
                tuple(Room(found.host, each.name, each.kind, each.total_mib) for each in found.devices),
                found.labels,
                found.draining,
            )
            for found in hosts.list_hosts(self._tx, silent_s=self._silent_s)
            if found.alive
        ]

    def _list_wishes(self, wanted: list[Deployment], standing: list[Standing], now: datetime) -> list[Wish]:
        busy = placing.list_in_demand(self._tx, sorted({each.model for each in wanted}))
        placing.note_used(self._tx, [each.id for each in wanted if each.model in busy])
        failed = placing.list_failed_lately(self._tx, within_s=HOLD_NEXT_S)
        wishes = []
        for each in wanted:
            own = [found for found in standing if found.wish_id == each.id]
            live = [found for found in own if not found.leaves]
            wish = Wish(
                each.id, each.model, each.revision, replicas=each.replicas, device=each.device, labels=each.labels,
                priority=each.priority, pinned=each.pinned, idle_s=each.idle_s, asleep=each.asleep,
                demand=each.model in busy, next_try_at=each.next_try_at, last_used_at=each.last_used_at,
                next_revision=each.next_revision, drain_first=bool((each.swap or {}).get("drain_first")),
                hold_next=(each.id, each.next_revision or "") in failed,
            )  # fmt: skip
            wish = self._look_again(wish, own, now)
            wish = replace(wish, need_mib=self._find_need(each, each.revision, live))
            if each.next_revision is not None:
                wish = replace(wish, next_need_mib=self._find_need(each, each.next_revision, live))
            wishes.append(wish)
        return wishes

    def _look_again(self, wish: Wish, own: list[Standing], now: datetime) -> Wish:
        """One that seems to be idle may have had a short job between two looks."""
        if not is_idle(wish, own, now):
            return wish
        times = [each.since for each in own if each.since] + ([wish.last_used_at] if wish.last_used_at else [])
        used_at = placing.find_used_since(self._tx, wish.model, max(times))
        if used_at is None or used_at <= max(times):
            return wish
        placing.set_used(self._tx, wish.id, min(used_at, now))
        return replace(wish, last_used_at=min(used_at, now))

    def _find_need(self, deployment: Deployment, revision: str, live: list[Standing]) -> int | None:
        """MiB of one replica; not asked for where none is missing."""
        if sum(found.revision == revision for found in live) >= deployment.replicas:
            return None
        found = self._estimate(self._tx, replace(deployment, revision=revision))
        if found is not None:
            self._plans[deployment.id, revision] = found.as_json()
        if deployment.memory_mib is not None:
            return deployment.memory_mib
        return None if found is None else found.total_mib

    def _write(self, found: Placement, wanted: dict[UUID, Deployment], kept: list[Kept]) -> None:
        names = _Names(kept)
        for start in found.starts:
            self._plan(start, wanted[start.wish_id], names)
        drained = placing.want(self._tx, [drain.replica_id for drain in found.drains], Wanted.DRAIN)
        reasons = {drain.replica_id: drain.reason for drain in found.drains}
        self._record("replica", {each: ("drain_wanted", {"reason": reasons[each]}) for each in drained})
        placing.want(self._tx, found.serves, Wanted.SERVE)
        placing.set_asleep(self._tx, found.slept, asleep=True)
        placing.set_asleep(self._tx, found.woken, asleep=False)
        self._record("deployment", dict.fromkeys(found.slept, ("asleep", {})))
        self._record("deployment", dict.fromkeys(found.woken, ("woken", {})))
        errors = {each: Failure(why, code="no_room").as_dict() for each, why in found.unplaced.items()}
        told = placing.tell_unplaced(self._tx, errors, NO_ROOM)
        self._record("deployment", {each: ("unplaced", {"reason": found.unplaced[each]}) for each in told})

    def _plan(self, start: Start, deployment: Deployment, names: _Names) -> None:
        worker = names.take(start.host)
        replica_id = placing.plan_replica(
            self._tx,
            deployment_id=start.wish_id,
            host=start.host,
            worker=worker,
            model=deployment.model,
            revision=start.revision,
            device=start.device,
            wanted=start.wanted,
            plan=self._plans.get((start.wish_id, start.revision)),
            planned_mib=start.mib,
        )
        data = {"worker": worker, "model": deployment.model, "revision": start.revision, "device": start.device}
        self._record("replica", {replica_id: ("planned", data)})

    def _record(self, subject: str, changes: dict[UUID, tuple[str, dict[str, Any]]]) -> None:
        events.record(
            self._tx,
            [Event(DEFAULT_TENANT, subject, each, event, _ACTOR, data) for each, (event, data) in changes.items()],
        )


class _Names:
    """`model0@host`, `model1@host` and so on: the smallest number that no living replica of a host has."""

    def __init__(self, kept: list[Kept]) -> None:
        self._taken = Counter(found.worker for found in kept)

    def take(self, host: str) -> str:
        number = 0
        while self._taken[f"model{number}@{host}"]:
            number += 1
        worker = f"model{number}@{host}"
        self._taken[worker] += 1
        return worker


def _read_standing(found: Kept) -> Standing:
    mib = found.memory_mib if found.memory_mib is not None else found.planned_mib
    return Standing(
        found.id,
        found.deployment_id,
        found.revision,
        found.host,
        found.device,
        ReplicaState(found.state),
        Wanted(found.wanted),
        mib or 0,
        found.ready_at or found.created_at,
    )
