"""Batch: how far it is and when it ends, why lines failed, why it stands still, and what it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Blueprint, Response
from flask_babel import gettext as _

from batchinfer.admin.live import render_live
from batchinfer.admin.minute_bars import draw_minutes
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.domain.batches import TERMINAL, Batch, BatchState
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.progress import LEAST_LINES, PACE_MINUTES, Basis, Pace, measure_progress, own_pace
from batchinfer.observe.clock import utc_now
from batchinfer.services import batches, reviewing, runs
from batchinfer.services.run_documents import OUTCOMES
from batchinfer.store import events, pages_batches, pages_causes

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.domain.runs import Run
    from batchinfer.store.pages_batches import BatchRow
    from batchinfer.store.session import Transaction

CHART_MINUTES = 60
_ENDS = ("completed_at", "failed_at", "expired_at", "cancelled_at")


@dataclass(frozen=True)
class Step:
    """A part of a batch's way. `place` is done, current or ahead."""

    text: str
    place: str
    at: datetime | None


@dataclass(frozen=True)
class Standstill:
    """Why a batch stands still. `by` is the name of who paused it; None where it stopped itself."""

    since: datetime | None
    by: str | None


def register(blueprint: Blueprint) -> None:
    """Add the page."""
    blueprint.add_url_rule("/batches/<batch_id>", view_func=show_batch)


def show_batch(batch_id: str) -> Response:
    """The page. Raises NotFound."""
    row, run = find_own(batch_id)
    context, caller, batch, now = get_context(), get_caller(), row.batch, utc_now()
    ended = batch.status in TERMINAL
    until = find_end(batch) or now
    with context.db.transaction() as tx:
        retrying = {} if ended else pages_batches.count_retrying(tx, [batch.id])
        pace = None if ended else find_pace(tx, batch, now)
        minutes = pages_batches.list_minutes(tx, batch.id, until=until, count=CHART_MINUTES)
        failed, all_failed = pages_causes.list_failed(tx, batch)
        standstill = _find_standstill(tx, batch, run)
    accuracy = reviewing.list_sample(context, caller, run.id, limit=1)[1] if run else None
    return render_live(
        "batch.html",
        "_batch.html",
        row=row,
        batch=batch,
        batch_id=batch_id,
        run=run,
        ended=ended,
        until=until,
        steps=list_steps(batch, is_run=run is not None),
        progress=measure_progress(batch, retrying=retrying.get(batch.id, 0), pace=pace, now=now),
        chart=draw_minutes(minutes, until=until, count=CHART_MINUTES),
        failed=failed,
        all_failed=all_failed,
        standstill=standstill,
        accuracy=accuracy,
        classes=list(JobClass),
        outcomes=OUTCOMES,
    )


def find_own(batch_id: str) -> tuple[BatchRow, Run | None]:
    """The caller's batch, and the run that it is the work of. Raises NotFound."""
    context, caller = get_context(), get_caller()
    found = batches.get_batch(context, caller, ids.parse_id(ids.BATCH, batch_id))
    with context.db.transaction() as tx:
        row = pages_batches.find_row(tx, caller.tenant_id, found.id)
    if row is None:  # it was forgotten between the two looks
        raise batches.make_unknown()
    return row, runs.get_run(context, caller, found.id) if row.is_run else None


def find_end(batch: Batch) -> datetime | None:
    """When a batch's last line had ended, as far as it has; None while some are open."""
    times = [batch.times[name] for name in ("finalizing_at", *_ENDS) if name in batch.times]
    return min(times) if times else None


def find_pace(tx: Transaction, batch: Batch, now: datetime) -> Pace | None:
    """The pace of a batch by its own last minutes, or while it is young by its model's last day; None: not known."""
    recent = pages_batches.sum_recent(tx, [batch.id], PACE_MINUTES).get(batch.id, 0)
    own = own_pace(batch, recent, now)
    if own is not None or batch.model is None or batch.counts.ended >= LEAST_LINES:
        return own
    jobs, minutes, waiting = pages_batches.measure_model(tx, batch.tenant_id, batch.model)
    if jobs < LEAST_LINES:
        return None
    others = max(0, waiting - (batch.counts.total - batch.counts.ended))
    return Pace(jobs / (60.0 * minutes), Basis.MODEL, jobs, 60.0 * minutes, others)


def list_steps(batch: Batch, *, is_run: bool) -> list[Step]:
    """The way of a batch, told as far as it is: that files are being written is a step of its own."""
    texts = (
        _("List and read documents") if is_run else _("Check the input"),
        _("Answer"),
        _("Write the results") if is_run else _("Write the files"),
        _("Ended"),
    )
    reached = {
        BatchState.VALIDATING: 0, BatchState.IN_PROGRESS: 1, BatchState.CANCELLING: 1, BatchState.FINALIZING: 2,
    }.get(batch.status, 3)  # fmt: skip
    times = batch.times
    at = (
        batch.created_at, times.get("in_progress_at"), times.get("finalizing_at"),
        next((times[name] for name in _ENDS if name in times), None),
    )  # fmt: skip
    places = ["done" if number < reached else "ahead" for number in range(4)]
    places[reached] = "done" if reached == 3 else "current"
    if is_run and reached == 1:
        places[0] = "done"
    skipped = [number for number in range(1, reached) if at[number] is None]
    return [
        Step(text, "skipped" if number in skipped else place, moment)
        for number, (text, place, moment) in enumerate(zip(texts, places, at, strict=True))
    ]


def _find_standstill(tx: Transaction, batch: Batch, run: Run | None) -> Standstill | None:
    since = batch.times.get("paused_at")
    if batch.status in TERMINAL or since is None:
        return None
    if run is not None and run.cause is not None:
        return Standstill(since, None)
    return Standstill(since, _find_who(tx, batch.tenant_id, batch.id))


def _find_who(tx: Transaction, tenant_id: UUID, batch_id: UUID) -> str | None:
    """The name of the key that paused it last, out of `key <id> <name>`."""
    actors = [event.actor for event in events.list_events(tx, tenant_id, batch_id) if event.event == "paused"]
    return (actors[-1] or "").split(" ", 2)[-1] if actors else None
