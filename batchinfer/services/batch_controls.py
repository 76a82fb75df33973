"""A user's verbs that steer a batch: pause, resume, change of class. Each leaves an event with who did it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.domain.batches import Batch, BatchState
from batchinfer.domain.ids import BATCH, show_id
from batchinfer.errors import BadRequest
from batchinfer.services.batches import get_own
from batchinfer.store import batch_pauses as store
from batchinfer.store.events import Event, record

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.jobs import JobClass
    from batchinfer.services.context import Caller, Context

_BEFORE_FINALIZING = frozenset({BatchState.VALIDATING, BatchState.IN_PROGRESS})


def pause_batch(ctx: Context, caller: Caller, batch_id: UUID) -> Batch:
    """Begin no more lines of a batch from now on; what runs ends, the file is read on, its time passes.

    Twice is as once. Raises NotFound, BadRequest (code batch_not_pausable) where all of it has ended.
    """
    batch = _mark(ctx, caller, batch_id, paused=True)
    _move(ctx, caller, batch_id, paused=True)
    return batch


def resume_batch(ctx: Context, caller: Caller, batch_id: UUID) -> Batch:
    """Let a paused batch go on. Twice is as once. Raises NotFound, BadRequest (code batch_not_pausable)."""
    batch = _mark(ctx, caller, batch_id, paused=False)
    _move(ctx, caller, batch_id, paused=False)
    return batch


def reclass_batch(ctx: Context, caller: Caller, batch_id: UUID, job_class: JobClass) -> Batch:
    """Give the lines of a batch that have not ended another class, those that are still to be read too.

    Raises NotFound, BadRequest (code batch_not_pausable) where all of it has ended.
    """
    caller.require("cancel")
    _check(get_own(ctx, caller, batch_id))
    with ctx.db.transaction() as tx:
        store.set_class(tx, caller.tenant_id, batch_id, job_class)
        record(tx, [_event(caller, batch_id, "reclassed", to=job_class.value)])
    after: int | None = 0
    while after is not None:
        with ctx.db.transaction() as tx:
            after = store.reclass_rows(tx, caller.tenant_id, batch_id, job_class, after=after)
    return get_own(ctx, caller, batch_id)


def mend_pauses(ctx: Context) -> int:
    """For upkeep: what came back at the very moment of a pause or resume. Answers how many rows."""
    with ctx.db.transaction() as tx:
        return store.mend_rows(tx)


def _mark(ctx: Context, caller: Caller, batch_id: UUID, *, paused: bool) -> Batch:
    caller.require("cancel")
    _check(get_own(ctx, caller, batch_id))
    with ctx.db.transaction() as tx:
        if store.mark_paused(tx, caller.tenant_id, batch_id, paused=paused):
            record(tx, [_event(caller, batch_id, "paused" if paused else "resumed")])
    return get_own(ctx, caller, batch_id)


def _move(ctx: Context, caller: Caller, batch_id: UUID, *, paused: bool) -> None:
    """Also where it was marked before: an earlier request may have ended half way."""
    after: int | None = 0
    while after is not None:
        with ctx.db.transaction() as tx:
            after = store.move_rows(tx, caller.tenant_id, batch_id, paused=paused, after=after)


def _check(batch: Batch) -> None:
    if batch.status not in _BEFORE_FINALIZING:
        raise BadRequest(
            f"Batch {show_id(BATCH, batch.id)} is {batch.status}: nothing of it waits. Only a batch that is validating "
            "or in_progress can be paused, resumed or given another class.",
            code="batch_not_pausable",
        )


def _event(caller: Caller, batch_id: UUID, event: str, **data: str) -> Event:
    return Event(caller.tenant_id, "batch", batch_id, event, caller.actor, data)
