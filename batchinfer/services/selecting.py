"""Which lines of its file a batch is about: all of them, or of a retry those that ended without an answer before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.domain.batch_items import ALL, Selection
from batchinfer.domain.jobs import JobState
from batchinfer.store import batch_items, batches, jobs

if TYPE_CHECKING:
    from batchinfer.services.context import Context
    from batchinfer.store.batches import Held
    from batchinfer.store.session import Transaction


def find_selection(ctx: Context, held: Held) -> Selection:
    """The lines of a batch. What it was retried from has ended, so that the answer is always the same."""
    with ctx.db.transaction() as tx:
        return _find(tx, held)


def _find(tx: Transaction, held: Held) -> Selection:
    parent_id, retry = held.batch.parent_id, held.options.get("retry")
    parent = batches.load_batches(tx, [parent_id]).get(parent_id) if parent_id else None
    if retry is None or parent is None:
        return ALL if retry is None else Selection(beyond=None)
    numbers = batch_items.list_ended(tx, parent.batch.id, retry["states"], retry["custom_ids"], retry.get("codes", ()))
    if not has_unread(parent, retry):
        return Selection(numbers, None)
    return Selection(numbers, jobs.find_last_line(tx, parent.batch.id), _find(tx, parent))


def has_unread(parent: Held, retry: dict[str, Any]) -> bool:
    """Whether lines that the end of `parent` came before are among those of its retry: they have no names to pick."""
    cut = parent.lines_read < parent.batch.counts.total
    named = retry["custom_ids"] or retry.get("codes")
    return cut and JobState.CANCELLED.value in retry["states"] and not named
