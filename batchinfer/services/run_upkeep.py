"""What ends a run early, and what puts one right that a crash left behind. A part of upkeep; each part may run twice.

A run ends by its ordinary end: once nothing of it is open, whoever took the last part away queues the writing of its
report, however it came to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.domain.batches import TERMINAL, BatchState
from batchinfer.errors import Failure
from batchinfer.observe.logs import get_logger
from batchinfer.services import pumping, sealing
from batchinfer.store import batches, endings, manifests
from batchinfer.store import run_endings as store
from batchinfer.store.claims import LIST, RENDER
from batchinfer.store.minutes import Tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.manifests import LiveRun
    from batchinfer.store.session import Transaction

#: Documents that are ended in one transaction, and most of them of a run in one tick.
_GROUP, _MOST = 1000, 100_000
#: Queue rows that are cancelled in one transaction.
_ROWS = 500
CANCELLED = Failure("The run was cancelled before the document was read.", code="cancelled").as_dict()
EXPIRED = Failure(
    "The window of the run closed before the document was read. The next run takes it; give it a longer window, or "
    "more devices.",
    code="expired",
).as_dict()
_BROKEN = Failure("The run failed before the document was read. Its cause says why.", code="cancelled").as_dict()

_log = get_logger(__name__)


def finish_runs(ctx: Context) -> int:
    """At each tick: end what was cancelled, has failed or whose window is over, and let the others go on. Answers how
    many runs there are."""
    return _each(ctx, _help)


def mend_runs(ctx: Context) -> int:
    """Now and then: documents that nobody works on, and counts that are wrong. Answers how many runs were looked at."""
    return _each(ctx, _mend)


def _each(ctx: Context, action: Callable[[Context, LiveRun], None]) -> int:
    """One run that cannot be helped must not keep the others from it."""
    with ctx.db.transaction() as tx:
        live = manifests.list_live(tx)
    for run in live:
        try:
            action(ctx, run)
        except Exception:
            _log.exception("a run could not be helped", run_id=str(run.id))
    return len(live)


def _help(ctx: Context, run: LiveRun) -> None:
    status = BatchState(run.status)
    if status in TERMINAL:
        _end_broken(ctx, run)
    elif status is BatchState.CANCELLING:
        cancel_documents(ctx, run.tenant_id, run.id, most=_MOST, actor="upkeep")
    elif status is BatchState.IN_PROGRESS and run.overdue:
        _expire(ctx, run)
    elif status is BatchState.IN_PROGRESS:
        if not run.listed and not run.worked_on:
            with ctx.db.transaction() as tx:
                store.requeue_listing(tx, run.id)
            ctx.announcer.announce_cpu([run.id])
        if run.has_listed and not run.paused:
            pumping.pump(ctx, run.id)


def stop_listing(tx: Transaction, tenant_id: UUID, run_id: UUID, *, actor: str) -> bool:
    """No more documents are listed. The batch is locked afterwards; its queue row has to be taken before. True: they
    would have been."""
    endings.cancel(tx, tenant_id, [run_id], kinds=[LIST], actor=actor)
    batches.lock_batch(tx, tenant_id, run_id)
    ended = manifests.end_listing(tx, run_id)
    if ended:
        batches.open_lines(tx, run_id, opened=-1)
    return ended


def cancel_documents(ctx: Context, tenant_id: UUID, run_id: UUID, *, most: int, actor: str) -> int:
    """End up to about `most` documents of a run that is being cancelled, some at a time; jobs are not among them.
    Answers how many."""
    with ctx.db.transaction() as tx:
        stop_listing(tx, tenant_id, run_id, actor=actor)
    total = close_listed(ctx, run_id, "cancelled", CANCELLED, most=most)
    return total + _cancel_rendering(ctx, tenant_id, run_id, CANCELLED, most=most, actor=actor)


def close_listed(ctx: Context, run_id: UUID, outcome: str, error: dict[str, Any], *, most: int) -> int:
    """End documents of a run that were never begun; the run ends where nothing else is open. Answers how many."""
    total = 0
    while total < most:
        tally = Tally()
        with ctx.db.transaction() as tx:
            closed = store.close_listed(tx, run_id, outcome, error, limit=_GROUP)
            sealed = sealing.queue_full_shards(tx, run_id) if closed else []
            if len(closed) < _GROUP:
                tally.count_line(run_id)
            tally.add(tx)
        ctx.announcer.announce_cpu(sealed)
        total += len(closed)
        if len(closed) < _GROUP:
            break
    return total


def _cancel_rendering(
    ctx: Context, tenant_id: UUID, run_id: UUID, error: dict[str, Any], *, most: int, actor: str
) -> int:
    """Those that are being rendered, or wait for it: each is then closed like any other."""
    total = 0
    while total < most:
        with ctx.db.transaction() as tx:
            found = store.list_rendering(tx, run_id, limit=_ROWS)
            ended = endings.cancel(tx, tenant_id, found, kinds=[RENDER], actor=actor, error=error)
        ctx.announcer.announce_cpu([row.id for row in ended])
        total += len(ended)
        if len(found) < _ROWS or not ended:
            break
    return total


def _expire(ctx: Context, run: LiveRun) -> None:
    """Its window is over. Rows of the queue have that time as their own, and end by themselves."""
    with ctx.db.transaction() as tx:
        if stop_listing(tx, run.tenant_id, run.id, actor="upkeep") or run.has_listed:
            manifests.set_cause_once(tx, run.id, {"code": "expired", "message": EXPIRED["message"]})
    close_listed(ctx, run.id, "expired", EXPIRED, most=_MOST)


def _end_broken(ctx: Context, run: LiveRun) -> None:
    """Its batch has ended, and nobody will write its report: the source could not be listed, or the sinks not be
    written."""
    with ctx.db.transaction() as tx:
        stop_listing(tx, run.tenant_id, run.id, actor="upkeep")
    close_listed(ctx, run.id, "cancelled", _BROKEN, most=_MOST)
    _cancel_rendering(ctx, run.tenant_id, run.id, _BROKEN, most=_MOST, actor="upkeep")
    with ctx.db.transaction() as tx:
        lines = batches.list_live_lines(tx, run.tenant_id, run.id, limit=_ROWS)
        ended = endings.cancel(tx, run.tenant_id, lines, actor="upkeep") if lines else []
        if not lines and not run.has_listed:
            manifests.finish_run(tx, run.id, run.errors[0] if run.errors else None)
    ctx.bell.ring([row.id for row in ended])


def _mend(ctx: Context, run: LiveRun) -> None:
    if run.has_queued:
        _mend_documents(ctx, run)
    waits = not run.listed or run.has_listed or run.has_queued
    if (run.open > 0) != waits and BatchState(run.status) not in TERMINAL:
        tally = Tally()
        with ctx.db.transaction() as tx:
            counted, found = store.mend_open(tx, run.id)
            tally.count_line(run.id)
            tally.add(tx)
        if counted != found:
            _log.warning("what a run waits for was counted wrong", run_id=str(run.id), counted=counted, found=found)


def _mend_documents(ctx: Context, run: LiveRun) -> None:
    tally = Tally()
    with ctx.db.transaction() as tx:
        unrendered, over = store.hold_stuck(tx, run.id)
        queued = store.requeue(tx, unrendered) if unrendered else []
        for document_id in (*over, *store.recount_ended(tx, run.id)):
            tally.count_page(document_id, run.id)
        tally.add(tx)
    ctx.announcer.announce_cpu([*queued, *over])
    if unrendered or over:
        _log.warning("documents stood still", run_id=str(run.id), to_render=len(unrendered), to_close=len(over))
