"""What must happen now and then, whoever does it: reap, expire, partitions, forgetting. Every part may run twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.errors import Failure
from batchinfer.observe.logs import get_logger
from batchinfer.services import (
    batch_controls,
    batches,
    checking,
    firing,
    placing,
    quotas,
    run_upkeep,
    sweeping,
    webhooks,
    work,
)
from batchinfer.store import endings, gauges, idempotency, partitions, rollup, ticks

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.services.context import Context

#: Names under which the last time is kept.
TICK, BEAT, MINUTELY, HOURLY, GAUGED = "tick", "beat", "minutely", "hourly", "gauged"
_MINUTELY_S, _HOURLY_S = 60.0, 3600.0
_EXPIRE_ROWS = 1000
_EXPIRED = Failure("Its time passed before it ended. Give a longer expires_in, or none.", code="expired").as_dict()

_log = get_logger(__name__)


@dataclass(frozen=True)
class Tick:
    """What one tick did."""

    leases_ended: int
    expired: int
    partitions_made: int
    keys_forgotten: int
    days_dropped: int = 0
    blobs_removed: int = 0
    #: Counters that differ from their rows.
    mismatches: int = 0


def tick(ctx: Context, *, by_beat: bool = False) -> Tick:
    """Do what is due; `by_beat`: it is a beat that does it. Raises Unavailable when the database does not answer."""
    leases_ended, expired = work.reap(ctx), expire(ctx)
    _try(lambda: run_upkeep.finish_runs(ctx), "finish runs")
    _try(lambda: batches.finish_batches(ctx), "finish batches")
    _try(lambda: firing.fire_schedules(ctx), "fire schedules")
    _try(lambda: int(bool(placing.reconcile(ctx))), "place what is wanted")
    _try(lambda: int(note_gauges(ctx)), "note how the queue and the devices stand")
    made = forgotten = dropped = removed = mismatches = 0
    with ctx.db.transaction() as tx:
        minutely, hourly = ticks.take_turn(tx, MINUTELY, _MINUTELY_S), ticks.take_turn(tx, HOURLY, _HOURLY_S)
        if hourly:
            made = partitions.ensure_partitions(tx)
            forgotten = idempotency.forget_expired(tx)
    if minutely:
        _try(lambda: batch_controls.mend_pauses(ctx), "put paused rows right")
        _try(lambda: run_upkeep.mend_runs(ctx), "put runs right")
        _try(lambda: len(checking.warn_of_old_snapshots(ctx)), "look for old snapshots")
        removed = _try(lambda: sweeping.erase_blobs(ctx), "erase what was deleted")
        _try(lambda: webhooks.keep_settings(ctx), "tell the webhook endpoints of the settings")
        _try(lambda: roll_up(ctx), "add the minutes up")
    if hourly:
        mismatches = _try(lambda: len(checking.check_counters(ctx)), "check the counters")
        _try(lambda: quotas.correct_counts(ctx), "put the counts of the backlog right")
        dropped = _try(lambda: sweeping.drop_expired(ctx), "drop what is over")
        _try(lambda: sweeping.drop_changes(ctx), "drop old changes")
        _try(lambda: sweeping.forget_leases(ctx), "forget leases of long ago")
        removed += _try(lambda: sweeping.sweep_blobs(ctx), "remove orphaned files")
    with ctx.db.transaction(relaxed=True) as tx:
        ticks.record_tick(tx, TICK)
        if by_beat:
            ticks.record_tick(tx, BEAT)
    return Tick(leases_ended, expired, made, forgotten, dropped, removed, mismatches)


def _try(part: Callable[[], int], what: str) -> int:
    """One part of upkeep. Whatever goes wrong in it must not keep the others from their turn; it comes again."""
    try:
        return part()
    except Exception:
        _log.exception("upkeep could not do a part of its work", part=what)
        return 0


def note_gauges(ctx: Context) -> bool:
    """Write down how the queue and the devices stand, once in each minute. False where that was done."""
    with ctx.db.transaction() as tx:
        since, until = ticks.take_window(tx, GAUGED, most_s=60.0)
        if since < until:
            gauges.note_gauges(tx, until, silent_s=ctx.settings.lease_ttl_s)
    return since < until


def roll_up(ctx: Context) -> int:
    """Put the rows of minutes that are over together, and make hours of them. Answers how many minutes changed."""
    with ctx.db.transaction() as tx:
        merged = rollup.merge_minutes(tx)
    with ctx.db.transaction() as tx:
        rollup.make_hours(tx)
    return merged


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


def seconds_since_beat(ctx: Context) -> float | None:
    """Seconds since a beat ticked; None where none ever did. CPU workers, which tick in its stead, do not count."""
    with ctx.db.transaction() as tx:
        return ticks.find_seconds_since(tx, BEAT)
