"""What upkeep looks at and reports, without changing anything: counters against their rows, and old snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.observe.logs import get_logger
from batchinfer.store import counting, run_endings, snapshots, ticks, usage
from batchinfer.store.events import Event, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.services.context import Context
    from batchinfer.store.counting import Mismatch
    from batchinfer.store.session import Transaction
    from batchinfer.store.snapshots import Snapshot

#: Under this name is kept up to when the minutes were checked.
COUNTED = "counted"
#: What lies further back is not checked: its days may be gone.
_MOST_S = 25 * 3600.0

_log = get_logger(__name__)

#: Checks of counters that are no minutes: each answers what differs.
MORE_CHECKS: list[Callable[[Transaction], list[Mismatch]]] = [usage.list_mismatches, run_endings.list_mismatches]


def check_counters(ctx: Context) -> list[Mismatch]:
    """Hold the minutes since the last check, and whatever else counts, against their rows.

    What differs is logged and leaves an event, and stays as it is: a person has to find out why.
    """
    with ctx.db.transaction() as tx:
        since, until = ticks.take_window(tx, COUNTED, most_s=_MOST_S)
        found = counting.list_mismatches(tx, since=since, until=until)
        for check in MORE_CHECKS:
            found.extend(check(tx))
        record(tx, [_as_event(mismatch, since.isoformat(), until.isoformat()) for mismatch in found])
    for mismatch in found:
        _log.warning(
            "a counter differs from its rows",
            tenant_id=str(mismatch.tenant_id),
            model=mismatch.model,
            counter=mismatch.counter,
            counted=mismatch.counted,
            rows=mismatch.rows,
        )
    return found


def _as_event(mismatch: Mismatch, since: str, until: str) -> Event:
    data = {"model": mismatch.model, "counter": mismatch.counter, "counted": mismatch.counted, "rows": mismatch.rows}
    window = {"since": since, "until": until}
    return Event(mismatch.tenant_id, "counter", mismatch.tenant_id, "mismatch", "upkeep", data | window)


def find_oldest_snapshot(ctx: Context) -> Snapshot | None:
    """The oldest one that holds back cleaning now; None where there is none that this role can see."""
    with ctx.db.transaction() as tx:
        return next(iter(snapshots.list_snapshots(tx)), None)


def warn_of_old_snapshots(ctx: Context) -> list[Snapshot]:
    """Log the snapshots older than the setting snapshot_warn_s, and slots that lag far behind; answers them."""
    with ctx.db.transaction() as tx:
        found = snapshots.list_snapshots(tx)
    old = [
        held
        for held in found
        if (held.age_s or 0.0) > ctx.settings.snapshot_warn_s or held.xids > ctx.settings.snapshot_warn_xids
    ]
    for held in old:
        _log.warning(
            "an old snapshot keeps the queue from being cleaned: end it",
            kind=held.kind,
            name=held.name,
            age_s=held.age_s,
            xids=held.xids,
        )
    return old
