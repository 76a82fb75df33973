"""What the process of a replica reads of its row and writes to it, and what its keeper says of its end.

Every change of state is guarded by `domain.replicas.MOVES` in SQL and leaves an event; a load that fails and one that
succeeds are counted for the deployment in the same transaction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.domain.replicas import BREAKER_FAILURES, ReplicaState, Wanted, find_pause_s
from batchinfer.errors import Failure
from batchinfer.services.announcing import announce_requeued
from batchinfer.services.losses import make_loss_rule
from batchinfer.store import events, fleet, hosts, leases, replicas
from batchinfer.store.events import Event
from batchinfer.store.replicas import Assignment, Moved, News

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.fleet import Model
    from batchinfer.store.hosts import Device
    from batchinfer.store.session import Transaction

__all__ = [
    "Assignment", "News", "close_host", "end_process", "list_of_host", "move", "open_host", "read_model", "read_orders",
    "renew", "take_over",
]  # fmt: skip

#: Pauses after so many failures in a row, in seconds; the last one holds for all that follow.
PAUSES_S = [find_pause_s(failures) for failures in range(1, BREAKER_FAILURES + 1)]
#: States in which a process that ends has failed to load its model.
_LOADING = (ReplicaState.PLANNED, ReplicaState.LOADING, ReplicaState.VERIFYING, ReplicaState.STANDING_BY)


def read_orders(ctx: Context, replica_id: UUID) -> Assignment | None:
    """What a replica is to load and do: `wanted` is serve, stand_by or drain. None where there is no such row."""
    with ctx.db.transaction() as tx:
        return replicas.find_assignment(tx, replica_id)


def read_model(ctx: Context, orders: Assignment) -> Model | None:
    """The model as the replica's revision has it: its own folder and facts. None where the model is gone."""
    with ctx.db.transaction() as tx:
        model = fleet.find_model(tx, orders.model)
    if model is None:
        return None
    return replace(model, revision=orders.revision, path=orders.path or model.path, facts=orders.facts)


def list_of_host(ctx: Context, host: str) -> list[Assignment]:
    """The replicas that a host's keeper is to hold, the most urgent first."""
    with ctx.db.transaction() as tx:
        return replicas.list_of_host(tx, host)


def move(ctx: Context, replica_id: UUID, state: ReplicaState, news: News | None = None) -> Moved | None:
    """Bring a replica to a state. None where its row does not allow it, because it has ended or is to go.

    Failed, it puts off the next load of its deployment; ready, it ends the pauses. Safe to repeat.
    """
    with ctx.db.transaction() as tx:
        return _move(tx, replica_id, state, news or News(), actor="worker")


def renew(ctx: Context, replica_id: UUID, lease_id: UUID) -> UUID | None:
    """A process whose lease was taken for dead goes on under a new one, as a new replica, in place of one planned
    for its name. None where its replica did not fail, or was to go: then the process has no more to do."""
    with ctx.db.transaction() as tx:
        new = replicas.renew(tx, replica_id, lease_id)
        if new is not None:
            _tell(tx, new, ReplicaState.READY, "worker", {"goes_on_from": str(replica_id)})
        return new


def end_process(ctx: Context, replica_id: UUID, host: str, pid: int, reason: str, *, wanted_end: bool = False) -> int:
    """The keeper saw the process of a replica end. Answers how many rows it held, which went back.

    `wanted_end`: it was told to end. Else it failed, and where it had not been ready yet, so did its load.
    """
    with ctx.db.transaction() as tx:
        error = Failure(f"The process of the model ended: {reason}.", code="worker_lost").as_dict()
        found = replicas.find_assignment(tx, replica_id)
        stopped = wanted_end or (found is not None and found.wanted == Wanted.DRAIN)
        state, news = (ReplicaState.STOPPED, News()) if stopped else (ReplicaState.FAILED, News(error=error))
        _move(tx, replica_id, state, news, actor=f"keeper {host}")
        back = leases.end_lease_of_process(tx, host, pid, reason, rule=make_loss_rule(ctx))
    announce_requeued(ctx, back.requeued)
    ctx.bell.ring([row.id for row in back.quarantined])
    return back.rows


def open_host(
    ctx: Context, host: str, keeper_id: UUID, devices: Sequence[Device], labels: dict[str, str] | None = None
) -> list[int]:
    """A keeper begins, and whoever kept this host before ends. Answers the processes that hold leases here.

    What stood on the host has failed: its processes ended with their keeper, or end when they read it.
    """
    with ctx.db.transaction() as tx:
        hosts.open_host(tx, host, keeper_id, devices, labels)
        events.record(tx, [Event(DEFAULT_TENANT, "host", keeper_id, "opened", f"keeper {host}", {"host": host})])
        return replicas.list_leased_pids(tx, host)


def close_host(ctx: Context, host: str, keeper_id: UUID) -> None:
    """A keeper ends in order: nothing is placed on its host any more."""
    with ctx.db.transaction() as tx:
        hosts.end_host(tx, host, keeper_id)
        events.record(tx, [Event(DEFAULT_TENANT, "host", keeper_id, "closed", f"keeper {host}", {"host": host})])


def take_over(ctx: Context, host: str, gone: Sequence[int]) -> int:
    """End what an earlier keeper of this host left: its replicas, and the leases of processes that are `gone`.

    A load that was cut off so is no failure of the model. Answers how many replicas there were.
    """
    lost = Failure("The keeper of the host ended, and its processes with it.", code="worker_lost").as_dict()
    with ctx.db.transaction() as tx:
        left = replicas.list_live_ids(tx, host)
        for replica_id in left:
            if replicas.move(tx, replica_id, ReplicaState.FAILED, News(error=lost)):
                _tell(tx, replica_id, ReplicaState.FAILED, f"keeper {host}", {"code": "worker_lost"})
    for pid in gone:
        with ctx.db.transaction() as tx:
            back = leases.end_lease_of_process(tx, host, pid, "its keeper ended", rule=make_loss_rule(ctx))
        announce_requeued(ctx, back.requeued)
        ctx.bell.ring([row.id for row in back.quarantined])
    return len(left)


def _move(tx: Transaction, replica_id: UUID, state: ReplicaState, news: News, *, actor: str) -> Moved | None:
    moved = replicas.move(tx, replica_id, state, news)
    if moved is None or moved.before is state:
        return moved
    data: dict[str, Any] = {"from": moved.before.value}
    if news.error:
        data["code"] = news.error.get("code")
    _tell(tx, replica_id, state, actor, data)
    if moved.deployment_id is not None:
        _count(tx, moved, state, news, actor)
    return moved


def _count(tx: Transaction, moved: Moved, state: ReplicaState, news: News, actor: str) -> None:
    if moved.deployment_id is None:
        return
    if state is ReplicaState.READY:
        replicas.reset_failures(tx, moved.deployment_id)
    elif state is ReplicaState.FAILED and moved.before in _LOADING:
        error = news.error or {}
        failures = replicas.note_failure(tx, moved.deployment_id, moved.revision, error, PAUSES_S)
        if failures == BREAKER_FAILURES:
            data = {"failures": failures, "next_try_in_s": PAUSES_S[-1], "code": error.get("code")}
            events.record(tx, [Event(DEFAULT_TENANT, "deployment", moved.deployment_id, "breaker_opened", actor, data)])


def _tell(tx: Transaction, replica_id: UUID, state: ReplicaState, actor: str, data: dict[str, Any]) -> None:
    events.record(tx, [Event(DEFAULT_TENANT, "replica", replica_id, state.value, actor, data)])
