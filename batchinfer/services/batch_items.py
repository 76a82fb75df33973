"""A user's verbs for the lines of a batch: list them, group why they failed, try the failed ones again."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from batchinfer.domain.batch_items import Cause
from batchinfer.domain.batches import TERMINAL, parse_window
from batchinfer.domain.ids import BATCH, new_id, show_id
from batchinfer.domain.userfiles import LONGEST_EXPIRY_S
from batchinfer.errors import BadRequest
from batchinfer.services.batches import require_batch, store_batch
from batchinfer.services.context import Page
from batchinfer.services.selecting import has_unread
from batchinfer.services.userfiles import make_missing
from batchinfer.store import batch_items as store
from batchinfer.store import batches, files, userfiles
from batchinfer.store.horizons import find_keep_days
from batchinfer.store.session import read_now

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.batch_items import Item, RetryRequest
    from batchinfer.domain.batches import Batch
    from batchinfer.domain.jobs import JobState
    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.batches import Held
    from batchinfer.store.session import Transaction


def list_items(
    ctx: Context,
    caller: Caller,
    batch_id: UUID,
    *,
    state: JobState | None = None,
    code: str | None = None,
    custom_id: str | None = None,
    after: UUID | None = None,
    limit: int = 20,
) -> Page[Item]:
    """The lines of a batch that are jobs, in the order of its file, behind the line of the job `after`.

    Raises NotFound, BadRequest (code invalid_cursor).
    """
    caller.require("read")
    with ctx.db.transaction() as tx:
        require_batch(batches.find_batch(tx, caller.tenant_id, batch_id))
        line = 0 if after is None else store.find_line(tx, batch_id, after)
        if line is None:
            raise BadRequest(
                "`after` is no line of this batch. Send the `last_id` of a page.", code="invalid_cursor", param="after"
            )
        found = store.list_items(tx, batch_id, state=state, code=code, custom_id=custom_id, after=line, limit=limit + 1)
    return Page.cut(found, limit, backwards=False)


def list_causes(ctx: Context, caller: Caller, batch_id: UUID) -> list[Cause]:
    """Why lines of a batch have no answer, the most frequent first; of one whose file was bad, its faults.

    Raises NotFound.
    """
    caller.require("read")
    with ctx.db.transaction() as tx:
        batch = require_batch(batches.find_batch(tx, caller.tenant_id, batch_id)).batch
        return store.list_causes(tx, batch_id) or _group_faults(batch)


def _group_faults(batch: Batch) -> list[Cause]:
    counts = Counter(fault["code"] for fault in batch.errors)
    first = {fault["code"]: fault for fault in reversed(batch.errors)}
    return [
        Cause(code, BadRequest.kind, None, number, first[code]["line"], None, first[code]["message"])
        for code, number in counts.most_common()
    ]


def retry_batch(
    ctx: Context, caller: Caller, batch_id: UUID, request: RetryRequest, idempotency: Idempotency | None = None
) -> tuple[Batch, bool]:
    """Make a new batch of those lines of an ended one that have no answer. Answers it, and whether it is a replay.

    Raises NotFound (also code file_not_found), BadRequest (code batch_not_retryable, nothing_to_retry), KeyReused,
    Busy.
    """
    caller.require("submit")
    with ctx.db.transaction() as tx:
        parent = require_batch(batches.find_batch(tx, caller.tenant_id, batch_id))
    new = _make_retry(caller, parent, request)
    return store_batch(ctx, caller, new, idempotency, lambda tx: _check(ctx, tx, parent, new))


def _make_retry(caller: Caller, parent: Held, request: RetryRequest) -> batches.NewBatch:
    batch = parent.batch
    retry = {
        "states": [state.value for state in request.states], "custom_ids": list(request.custom_ids),
        "codes": list(request.codes), "merge": request.merge,
    }  # fmt: skip
    kept = {name: value for name, value in parent.options.items() if name not in ("retry", "merged")}
    return batches.NewBatch(
        id=new_id(),
        tenant_id=caller.tenant_id,
        job_class=parent.job_class,
        endpoint=batch.endpoint,
        completion_window=request.completion_window or batch.completion_window,
        window=request.window or parse_window(batch.completion_window),
        input_file_id=batch.input_file_id,
        metadata=batch.metadata if request.metadata is None else request.metadata,
        options={"output_expires_s": LONGEST_EXPIRY_S, **kept, "retry": retry},
        parent_id=batch.id,
        key_id=caller.key_id,
    )


def _check(ctx: Context, tx: Transaction, parent: Held, new: batches.NewBatch) -> None:
    """Go on only if the retry can be: within its transaction, so that the file it reads again stays."""
    batch, retry = parent.batch, new.options["retry"]
    if batch.input_file_id is None:
        raise _refuse(batch, "is a run over documents. Retry single pages, or run it again: what was read well is kept")
    if batch.status not in TERMINAL:
        raise _refuse(batch, f"is {batch.status}. Retry it once it has ended, or cancel it first")
    number = store.count_ended(tx, batch.id, retry["states"], retry["custom_ids"], retry["codes"])
    if not number and not has_unread(parent, retry):
        raise BadRequest(
            "No line of this batch ended in such a way. There is nothing to retry.", code="nothing_to_retry"
        )
    keep_days = find_keep_days(tx, batch.tenant_id, ctx.settings.keep_days)
    if retry["merge"] and keep_days and not _outlives(keep_days, tx, batch, new):
        raise _refuse(batch, "is so old that its answers are dropped before the new ones are there. Say `merge` false")
    source = userfiles.find_source(tx, batch.tenant_id, batch.input_file_id)
    if source is None:
        raise make_missing()
    files.record_blobs(tx, batch.tenant_id, [files.Blob(source.blob, source.size_bytes, files.PLAIN)])
    if not ctx.blobs.exists(batch.tenant_id, source.blob):
        raise make_missing()


def _outlives(keep_days: int, tx: Transaction, batch: Batch, new: batches.NewBatch) -> bool:
    """Whether the answers that are merged are there for as long as the new batch may take, and a day more."""
    chain = batches.load_batches(tx, store.list_chain(tx, batch.id))
    oldest = min(held.batch.created_at for held in chain.values())
    kept = timedelta(days=keep_days)
    return oldest + kept > read_now(tx) + new.window + timedelta(days=1)


def _refuse(batch: Batch, sentence: str) -> BadRequest:
    return BadRequest(f"Batch {show_id(BATCH, batch.id)} {sentence}.", code="batch_not_retryable")
