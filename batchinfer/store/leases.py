"""Leases: a worker process's right to hold rows. Its id is random, so that a name can never come back with old rows.

Times are judged by the database's clock alone. Ending a lease and giving back what it held is one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from sqlalchemy import TextClause, text

from batchinfer.store import endings, events, returns
from batchinfer.store.clean import as_jsonb
from batchinfer.store.events import Event
from batchinfer.store.minutes import Tally
from batchinfer.store.set_back import mend_times

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from batchinfer.store.claims import Ended, Requeued
    from batchinfer.store.returns import LossRule
    from batchinfer.store.session import Transaction

#: Held while silent leases are looked for: one reaper at a time is enough.
_REAPER_LOCK = 7215001
_LOST_ERROR = {
    "message": "Workers were lost each time this job ran, so it was set apart. Look at its attempts and at the "
    "workers' logs, then release it to let it run again.",
    "type": "server_error",
    "param": None,
    "code": "worker_lost",
}
#: Of a replica whose worker's lease was ended for it, where nothing else is known of its end.
_REPLICA_LOST = {
    "message": "The worker that held the model fell silent, or its process is gone.",
    "type": "server_error",
    "param": None,
    "code": "worker_lost",
}


@dataclass(frozen=True)
class Worker:
    """A worker process as its lease shows it. `running` is how many rows it holds."""

    lease_id: UUID
    role: str
    worker: str
    host: str
    pid: int
    model: str | None
    device: str | None
    slots: int
    #: alive, or dead once its lease has ended.
    dead: bool
    info: dict[str, Any]
    opened_at: datetime
    heartbeat_at: datetime
    ended_at: datetime | None
    end_reason: str | None
    running: int
    #: Seconds since the last sign of life, by the database's clock.
    silent_s: float


@dataclass(frozen=True)
class GivenBack:
    """What became of the rows of ended leases."""

    leases: int = 0
    requeued: list[Requeued] = field(default_factory=list)
    quarantined: list[Ended] = field(default_factory=list)
    #: Runs that are paused by it: too many of their last pages failed.
    stopped: list[UUID] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows that were held."""
        return len(self.requeued) + len(self.quarantined)


_OPEN = text("""
    INSERT INTO leases (id, role, worker, host, pid, model, device, slots, info)
    VALUES (:id, :role, :worker, :host, :pid, :model, :device, :slots, :info)
""")


def open_lease(
    tx: Transaction,
    *,
    role: str,
    worker: str,
    host: str,
    pid: int,
    model: str | None = None,
    device: str | None = None,
    slots: int = 0,
    info: dict[str, Any] | None = None,
) -> UUID:
    """Begin to hold rows, under a random id."""
    lease_id = uuid4()
    values = {
        "role": role,
        "worker": worker,
        "host": host,
        "pid": pid,
        "model": model,
        "device": device,
        "slots": slots,
    }
    tx.execute(_OPEN, {"id": lease_id, "info": as_jsonb(info or {}), **values})
    return lease_id


_BEAT = text("""
    UPDATE leases SET heartbeat_at = now(), info = coalesce(CAST(:info AS jsonb), info)
    WHERE id = :id AND NOT dead RETURNING id
""")


def beat(tx: Transaction, lease_id: UUID, info: dict[str, Any] | None = None) -> bool:
    """Give a sign of life. False: the lease is dead and its rows are others'."""
    return tx.execute(_BEAT, {"id": lease_id, "info": as_jsonb(info)}).first() is not None


_END = text("""
    UPDATE leases SET dead = true, ended_at = now(), end_reason = :reason
    WHERE id = :id AND NOT dead RETURNING id
""")
_END_ALL = text("UPDATE leases SET dead = true, ended_at = now(), end_reason = :reason WHERE NOT dead RETURNING id")
_END_OF_PROCESS = text("""
    UPDATE leases SET dead = true, ended_at = now(), end_reason = :reason
    WHERE host = :host AND pid = :pid AND NOT dead RETURNING id
""")
# One that is locked is left for the next time: its worker may have been stopped inside a transaction, which the server
# ends by itself; the others need not wait for that.
_END_SILENT = text("""
    UPDATE leases SET dead = true, ended_at = now(), end_reason = 'silent'
    WHERE id IN (SELECT id FROM leases WHERE NOT dead AND heartbeat_at < now() - make_interval(secs => :ttl_s)
                 ORDER BY id FOR UPDATE SKIP LOCKED) RETURNING id
""")
_STRAYS = text("""
    SELECT DISTINCT q.lease_id FROM queue q LEFT JOIN leases l ON l.id = q.lease_id
    WHERE q.state = 'running' AND (l.id IS NULL OR l.dead)
""")
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")


def end_lease(tx: Transaction, lease_id: UUID, reason: str, *, rule: LossRule, clean: bool = False) -> GivenBack:
    """End a lease; its rows are given back (`clean`) or counted as crashed. Nothing if it had ended before."""
    ended = _ids(tx, _END, {"id": lease_id, "reason": reason})
    if not clean or not ended:
        return _give_back(tx, ended, rule=rule)
    _end_replicas(tx, ended, "stopped")
    return GivenBack(len(ended), returns.release(tx, lease_id=lease_id))


def end_all(tx: Transaction, reason: str) -> GivenBack:
    """End every lease; what they held is given back, and no try is counted: their workers are another server's."""
    ended = _ids(tx, _END_ALL, {"reason": reason})
    _end_replicas(tx, ended, "stopped")
    return GivenBack(len(ended), [row for lease_id in ended for row in returns.release(tx, lease_id=lease_id)])


def end_lease_of_process(tx: Transaction, host: str, pid: int, reason: str, *, rule: LossRule) -> GivenBack:
    """End whatever lease a process still has that is gone; one that ended its lease itself has none."""
    ended = _ids(tx, _END_OF_PROCESS, {"host": host, "pid": pid, "reason": reason})
    return _give_back(tx, ended, rule=rule)


def reap(tx: Transaction, *, ttl_s: float, rule: LossRule) -> GivenBack:
    """End the leases that were silent for `ttl_s` and give back their rows, and any row whose lease is not alive.

    Nothing while another transaction reaps.
    """
    if not tx.execute(_TRY_LOCK, {"key": _REAPER_LOCK}).scalar_one():
        return GivenBack()
    mend_times(tx)
    ended = _ids(tx, _END_SILENT, {"ttl_s": ttl_s})
    strays = [row.lease_id for row in tx.execute(_STRAYS) if row.lease_id not in ended]
    return _give_back(tx, ended, strays=strays, rule=rule)


_LOCK_HELD = text("""
    SELECT id FROM queue WHERE state = 'running' AND lease_id = ANY (CAST(:lease_ids AS uuid[]))
    ORDER BY id FOR UPDATE
""")
# A replica gets its lease's id when it is ready: until then its worker's name says whose it is.
_END_REPLICAS = text("""
    UPDATE replicas r SET state = :state, ended_at = now(),
        error = CASE WHEN :state = 'failed' THEN coalesce(r.error, CAST(:error AS jsonb)) ELSE r.error END
    WHERE ended_at IS NULL AND (lease_id = ANY (CAST(:lease_ids AS uuid[])) OR (lease_id IS NULL AND EXISTS (
        SELECT 1 FROM leases l
        WHERE l.id = ANY (CAST(:lease_ids AS uuid[])) AND l.worker = r.worker AND l.opened_at >= r.created_at)))
    RETURNING r.id, r.tenant_id, r.deployment_id
""")


def _ids(tx: Transaction, statement: TextClause, values: dict[str, Any]) -> list[UUID]:
    return [row.id for row in tx.execute(statement, values)]


def _end_replicas(tx: Transaction, lease_ids: Sequence[UUID], state: str) -> None:
    values = {"lease_ids": list(lease_ids), "state": state, "error": as_jsonb(_REPLICA_LOST)}
    ended = tx.execute(_END_REPLICAS, values).all()
    events.record(
        tx,
        [Event(row.tenant_id, "replica", row.id, state, "lease") for row in ended if row.deployment_id is not None],
    )


def _give_back(tx: Transaction, lease_ids: list[UUID], *, rule: LossRule, strays: Sequence[UUID] = ()) -> GivenBack:
    """What dead leases held: quarantined where it is proven to be the cause, else queued with one crash more."""
    owners = [*lease_ids, *strays]
    if not owners:
        return GivenBack()
    _end_replicas(tx, owners, "failed")
    tx.execute(_LOCK_HELD, {"lease_ids": owners})
    tally, suspects = Tally(), rule.list_suspects(owners)
    quarantined = endings.quarantine(
        tx, lease_ids=owners, max_crashes=rule.max_crashes, suspects=suspects, error=_LOST_ERROR, tally=tally
    )
    requeued = returns.lose(tx, lease_ids=owners, rule=rule, suspects=suspects, tally=tally)
    tally.add(tx)
    return GivenBack(len(lease_ids), requeued, quarantined, tally.stopped)


# One that a row still names is not ended for it yet.
_FORGET = text("""
    DELETE FROM leases WHERE id IN (
        SELECT l.id FROM leases l WHERE l.dead AND l.ended_at < :before
          AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.state = 'running' AND q.lease_id = l.id)
        ORDER BY l.ended_at LIMIT :limit)
    RETURNING id
""")


def forget_ended(tx: Transaction, before: datetime, *, limit: int) -> int:
    """Remove leases that ended before that, the first of them, at most `limit`. Answers how many.

    A result tells its worker by its lease: before the oldest job there was none that could have written one.
    """
    return len(_ids(tx, _FORGET, {"before": before, "limit": limit}))


_LIST = text("""
    SELECT l.id AS lease_id, l.role, l.worker, l.host, l.pid, l.model, l.device, l.slots, l.dead, l.info, l.opened_at,
           l.heartbeat_at, l.ended_at, l.end_reason,
           CAST(extract(epoch FROM greatest(now() - l.heartbeat_at, interval '0')) AS float) AS silent_s,
           (SELECT count(*) FROM queue q WHERE q.state = 'running' AND q.lease_id = l.id) AS running
    FROM leases l
    WHERE NOT l.dead OR l.ended_at > now() - make_interval(secs => :ended_within_s)
    ORDER BY l.dead, l.role DESC, l.worker, l.opened_at DESC LIMIT 500
""")


def list_workers(tx: Transaction, *, ended_within_s: float = 3600) -> list[Worker]:
    """Workers alive, then those that ended lately; at most 500."""
    return [Worker(**row._mapping) for row in tx.execute(_LIST, {"ended_within_s": ended_within_s})]
