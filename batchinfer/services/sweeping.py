"""What upkeep removes for good: days whose time is over, and files that nothing refers to any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from batchinfer.errors import Unavailable
from batchinfer.observe.logs import get_logger
from batchinfer.services.crumbs import sweep_crumbs
from batchinfer.store import batches, changes, leases, outbox, retention, reuse, sweeping, uploads, userfiles
from batchinfer.store.horizons import find_horizons

if TYPE_CHECKING:
    from batchinfer.services.context import Context
    from batchinfer.store.horizons import Horizons

#: Blobs in one transaction: a lock is held while their files go.
_GROUP = 200
#: Shelves of the blob store: the first byte of a blob's name.
_SHELVES = 256
_HOURS = 24
#: Rows that go in one transaction, jobs or leases; and such transactions of a tenant's jobs in an hour.
_ROWS, _ROW_GROUPS = 2000, 100
#: Rows of changes that are dropped in one transaction.
_CHANGES = 50_000
#: An ended lease is shown for an hour, and counted as lost for a quarter of one.
_LEASES_STAY = timedelta(days=1)
_CLOCKS_DIFFER = timedelta(hours=1)
#: Between storing bytes and the commit of what refers to them no request takes this long.
ERASE_WAIT_S = 600.0

_log = get_logger(__name__)


def drop_expired(ctx: Context) -> int:
    """Drop the days whose time is over and in which nothing lives, and what lies beside them. Answers how many days.

    Nothing with the setting keep_days 0 and no tenant that has days of its own: those of tenants that keep more or less
    than the others go row by row. A day whose lock cannot be had is left for the next time.
    """
    dropped = 0
    with ctx.db.transaction() as tx:
        before = find_horizons(tx, ctx.settings.keep_days)
        days = retention.list_expired_days(tx, before)
    if not ctx.settings.keep_days and not before.own:
        return 0
    for day in days:
        try:
            with ctx.db.transaction() as tx:
                dropped += retention.drop_day(tx, day, before)
        except Unavailable:
            _log.info("a day is in use; it is dropped another time", day=str(day))
    drop_rows(ctx, before)
    with ctx.db.transaction() as tx:
        retention.drop_beside(tx, before)
        outbox.forget_ended(tx, before=before)
        batches.forget_ended(tx, before=before)
        userfiles.forget_gone(tx, before=before)
        reuse.forget_dropped(tx, before=before)
        uploads.forget_ended(tx, before=before)
    return dropped


def drop_rows(ctx: Context, before: Horizons) -> int:
    """Remove ended jobs of tenants whose days are over and whose tables stay, some in each transaction. Answers how
    many; what is left of a tenant comes again in an hour."""
    total = 0
    with ctx.db.transaction() as tx:
        tenants = retention.list_row_horizons(tx, before)
    for tenant_id, first in tenants:
        for _ in range(_ROW_GROUPS):
            with ctx.db.transaction() as tx:
                gone = retention.drop_rows(tx, tenant_id, first, limit=_ROWS)
            total += gone
            if gone < _ROWS:
                break
    return total


def sweep_blobs(ctx: Context, *, most: int = 20_000) -> int:
    """Remove blobs of dropped jobs and documents, at most `most`, and stray files on this hour's shelves.

    Answers how many blobs. Every shelf comes up once a day.
    """
    sweep_crumbs(ctx.settings.crumbs_dir)
    if not ctx.blobs.root.is_dir():
        return 0  # the files are on another host: nothing can be said of them here
    with ctx.db.transaction() as tx:
        oldest = sweeping.find_oldest(tx)
    removed = 0
    now = datetime.now(UTC)
    grace = timedelta(hours=ctx.settings.blob_grace_hours)
    while removed < most and (group := _remove_group(ctx, (oldest or now) - grace, now - grace)):
        removed += group
    hour = now.hour
    for shelf in range(_SHELVES * hour // _HOURS, _SHELVES * (hour + 1) // _HOURS):
        removed += sweep_shelf(ctx, shelf)
    return removed


def _remove_group(ctx: Context, before: datetime, plain_before: datetime) -> int:
    """Some blobs last used before that, with their rows. Answers how many were looked at."""
    unused_s = ctx.settings.blob_grace_hours * 3600
    with ctx.db.transaction() as tx:
        orphans = sweeping.hold_orphans(tx, before=before, plain_before=plain_before, limit=_GROUP)
        gone = [o for o in orphans if ctx.blobs.remove_unused(o.tenant_id, o.sha256, unused_s=unused_s)]
        sweeping.forget(tx, gone)
        sweeping.keep(tx, [orphan for orphan in orphans if orphan not in gone])
    return len(orphans)


def drop_changes(ctx: Context) -> int:
    """Drop changes of state that are older than the setting changes_days. Answers how many rows."""
    total = 0
    while True:
        with ctx.db.transaction() as tx:
            dropped = changes.drop_changes(tx, timedelta(days=ctx.settings.changes_days), limit=_CHANGES)
        total += dropped
        if dropped < _CHANGES // 2:
            return total


def forget_leases(ctx: Context) -> int:
    """Remove ended leases that no job that is left can name. Answers how many."""
    total = 0
    with ctx.db.transaction() as tx:
        oldest = sweeping.find_oldest(tx)
    # Ids of jobs have the time of the host that made them, leases the database's.
    before = min(oldest or datetime.now(UTC), datetime.now(UTC) - _LEASES_STAY) - _CLOCKS_DIFFER
    while True:
        with ctx.db.transaction() as tx:
            gone = leases.forget_ended(tx, before, limit=_ROWS)
        total += gone
        if gone < _ROWS:
            return total


def erase_blobs(ctx: Context) -> int:
    """Remove the bytes of what was deleted, where nothing else refers to them. Answers how many blobs went.

    Bytes that came again while they waited are left to whoever is just about to refer to them, and looked at later.
    """
    if not ctx.blobs.root.is_dir():
        return 0
    erased = 0
    while True:
        with ctx.db.transaction() as tx:
            unused, used = sweeping.hold_erased(tx, limit=_GROUP)
            gone = [o for o in unused if ctx.blobs.remove_unused(o.tenant_id, o.sha256, unused_s=ERASE_WAIT_S)]
            sweeping.forget(tx, gone)
            sweeping.postpone(tx, [orphan for orphan in unused if orphan not in gone], ERASE_WAIT_S)
            sweeping.postpone(tx, used, None)
        erased += len(gone)
        if len(unused) + len(used) < _GROUP:
            return erased


def sweep_shelf(ctx: Context, shelf: int) -> int:
    """Remove files without a row on one shelf that nobody has stored for the grace time. Answers how many blobs."""
    unused_s, removed = ctx.settings.blob_grace_hours * 3600, 0
    ctx.blobs.tidy_shelf(shelf, unused_s=unused_s)
    for tenant_id, names in ctx.blobs.list_shelf(shelf):
        for start in range(0, len(names), 1000):
            some = names[start : start + 1000]
            with ctx.db.transaction() as tx:
                known = sweeping.find_known(tx, tenant_id, some)
            strays = [name for name in some if name not in known]
            removed += sum(ctx.blobs.remove_unused(tenant_id, name, unused_s=unused_s) for name in strays)
    return removed
