"""What must happen now and then, whoever does it: reap, expire, partitions, forgetting. Every part may run twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.errors import Failure
from batchinfer.services import work
from batchinfer.store import endings, idempotency, partitions, ticks

if TYPE_CHECKING:
    from batchinfer.services.context import Context
    from batchinfer.store.session import Transaction

#: Names under which the last time is kept.
TICK, HOURLY = "tick", "hourly"
_HOURLY_S = 3600.0
_EXPIRE_ROWS = 1000
_EXPIRED = Failure("Its time passed before it ended. Give a longer expires_in, or none.", code="expired").as_dict()


@dataclass(frozen=True)
class Tick:
    """What one tick did."""

    leases_ended: int
    expired: int
    partitions_made: int
    keys_forgotten: int


def tick(ctx: Context) -> Tick:
    """Do what is due. Raises Unavailable when the database does not answer."""
    leases_ended, expired = work.reap(ctx), expire(ctx)
    made = forgotten = 0
    with ctx.db.transaction() as tx:
        if _is_due(tx):
            made = partitions.ensure_partitions(tx)
            forgotten = idempotency.forget_expired(tx)
            ticks.record_tick(tx, HOURLY)
    with ctx.db.transaction(relaxed=True) as tx:
        ticks.record_tick(tx, TICK)
    return Tick(leases_ended, expired, made, forgotten)


def expire(ctx: Context) -> int:
    """End what has passed its time, wherever it is. Answers how many rows."""
    total = 0
    while True:
        with ctx.db.transaction() as tx:
            ended = endings.expire(tx, error=_EXPIRED, limit=_EXPIRE_ROWS)
        ctx.bell.ring([row.id for row in ended])
        total += len(ended)
        if len(ended) < _EXPIRE_ROWS:
            return total


def seconds_since_tick(ctx: Context) -> float | None:
    """Seconds since anybody ticked; None where nobody ever did."""
    with ctx.db.transaction() as tx:
        return ticks.find_seconds_since(tx, TICK)


def _is_due(tx: Transaction) -> bool:
    since_s = ticks.find_seconds_since(tx, HOURLY)
    return since_s is None or since_s >= _HOURLY_S
