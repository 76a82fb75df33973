"""A user's verbs for batches: create, get, list, cancel; and what upkeep finishes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.domain.batches import TERMINAL, Batch, BatchState
from batchinfer.domain.ids import BATCH, FILE, new_id, parse_id, show_id
from batchinfer.domain.runs import DOCUMENTS
from batchinfer.domain.userfiles import BATCH as BATCH_PURPOSE
from batchinfer.domain.userfiles import LONGEST_EXPIRY_S, FileRequest
from batchinfer.errors import BadRequest, NotFound
from batchinfer.services import run_upkeep
from batchinfer.services.context import Page
from batchinfer.services.quotas import admit
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.services.userfiles import insert_file, make_missing, store_pieces
from batchinfer.store import batches as store
from batchinfer.store import endings, files, queue, userfiles
from batchinfer.store.claims import LIST, READ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from uuid import UUID

    from batchinfer.domain.batches import BatchRequest
    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.session import Transaction

#: Lines that are cancelled in one transaction, and most of them within a request; upkeep goes on.
_GROUP, _AT_ONCE = 500, 5000


def create_batch(
    ctx: Context, caller: Caller, request: BatchRequest, idempotency: Idempotency | None = None
) -> tuple[Batch, bool]:
    """Store a batch, whose file a CPU worker then reads. Answers it, and whether it is a replay.

    Raises NotFound (code file_not_found), BadRequest (a file of another purpose), KeyReused, Busy, Forbidden.
    """
    caller.require("submit")
    file_id = parse_id(FILE, request.input_file_id or "")
    batch = _make_batch(caller, request, file_id)
    return store_batch(ctx, caller, batch, idempotency, lambda tx: check_file(tx, caller, file_id))


def create_from_lines(
    ctx: Context,
    caller: Caller,
    request: BatchRequest,
    pieces: Iterable[bytes],
    idempotency: Callable[[bytes], Idempotency | None] = lambda _: None,
) -> tuple[Batch, bool]:
    """The same with the lines themselves, which go through the disk into a file of the batch's own.

    `idempotency` makes the key of this request from the SHA-256 of the lines. Raises what `pieces` raises, KeyReused,
    Busy, Forbidden, Unavailable; then nothing was made.
    """
    caller.require("submit")
    blob = store_pieces(ctx, caller.tenant_id, pieces)
    file_id = new_id()
    batch = _make_batch(caller, request, file_id, lines=True)

    def insert(tx: Transaction) -> None:
        files.record_blobs(tx, caller.tenant_id, [blob])
        named = FileRequest(f"{show_id(BATCH, batch.id)}_input.jsonl", BATCH_PURPOSE, LONGEST_EXPIRY_S)
        insert_file(tx, caller.tenant_id, file_id, named, blob)

    return store_batch(ctx, caller, batch, idempotency(bytes.fromhex(blob.sha256)), insert)


def _make_batch(caller: Caller, request: BatchRequest, file_id: UUID, **marks: bool) -> store.NewBatch:
    return store.NewBatch(
        id=new_id(),
        tenant_id=caller.tenant_id,
        job_class=request.job_class,
        endpoint=request.endpoint,
        completion_window=request.completion_window,
        window=request.window,
        input_file_id=file_id,
        metadata=request.metadata,
        options={"output_expires_s": request.output_expires_s, **_cache(request), **marks},
        key_id=caller.key_id,
    )


def _cache(request: BatchRequest) -> dict[str, str]:
    return {"cache": request.cache.value} if request.cache else {}


def store_batch(
    ctx: Context,
    caller: Caller,
    batch: store.NewBatch,
    idempotency: Idempotency | None,
    before: Callable[[Transaction], None],
) -> tuple[Batch, bool]:
    """Store a batch and its reading, after `before` in the same transaction. Answers it, and whether it is a replay."""
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return get_own(ctx, caller, found.resource_id), True
    try:
        with ctx.db.transaction() as tx:
            before(tx)
            take_key(ctx, tx, caller, idempotency, "batch", batch.id)
            admit(ctx, tx, caller.tenant_id, 1)
            store.insert_batch(tx, batch)
            queue.enqueue(tx, [queue.Entry(batch.id, READ, caller.tenant_id, READ, batch.job_class)])
    except Replayed as replay:
        return get_own(ctx, caller, replay.found.resource_id), True
    ctx.announcer.announce_cpu([batch.id])
    return get_own(ctx, caller, batch.id), False


def check_file(tx: Transaction, caller: Caller, file_id: UUID) -> None:
    """Go on only with a file for batches. Raises NotFound (code file_not_found), BadRequest (invalid_file_purpose)."""
    file = userfiles.find_file(tx, caller.tenant_id, file_id)
    if file is None:
        raise make_missing()
    if file.purpose != BATCH_PURPOSE:
        raise BadRequest(
            f"The file was uploaded for {file.purpose}. Upload it with `purpose` batch.",
            code="invalid_file_purpose",
            param="input_file_id",
        )


def get_own(ctx: Context, caller: Caller, batch_id: UUID) -> Batch:
    """The caller's batch, whatever its scopes. Raises NotFound."""
    with ctx.db.transaction() as tx:
        return require_batch(store.find_batch(tx, caller.tenant_id, batch_id)).batch


def require_batch(held: store.Held | None) -> store.Held:
    """The batch. Raises NotFound where there is none."""
    if held is None:
        raise make_unknown()
    return held


def make_unknown() -> NotFound:
    """The error for a batch that is not there."""
    return NotFound("No batch with this id. It may have been removed after its time.", code="batch_not_found")


def get_batch(ctx: Context, caller: Caller, batch_id: UUID) -> Batch:
    """The batch. Raises NotFound."""
    caller.require("read")
    return get_own(ctx, caller, batch_id)


def list_batches(ctx: Context, caller: Caller, *, after: UUID | None = None, limit: int = 20) -> Page[Batch]:
    """Batches, newest first, beginning below the id `after`."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        found = store.list_batches(tx, caller.tenant_id, after=after, limit=limit + 1)
    return Page.cut([held.batch for held in found], limit, backwards=False)


def cancel_batch(ctx: Context, caller: Caller, batch_id: UUID) -> Batch:
    """End what has not ended of a batch; the files of what has are written then. Twice is as once.

    Raises NotFound, BadRequest (code batch_not_cancellable) where it has ended otherwise.
    """
    caller.require("cancel")
    with ctx.db.transaction() as tx:
        require_batch(store.find_batch(tx, caller.tenant_id, batch_id))
        # The reading first: after that no line can become a job.
        endings.cancel(tx, caller.tenant_id, [batch_id], kinds=[READ, LIST], actor=caller.actor)
        batch = require_batch(store.lock_batch(tx, caller.tenant_id, batch_id)).batch
        if batch.status in TERMINAL - {BatchState.CANCELLED}:
            raise BadRequest(
                f"Batch {show_id(BATCH, batch_id)} has already ended as {batch.status}. Only a batch that has not "
                "ended can be cancelled.",
                code="batch_not_cancellable",
            )
        store.cancel_batch(tx, batch_id)
    if batch.endpoint == DOCUMENTS:
        run_upkeep.cancel_documents(ctx, caller.tenant_id, batch_id, most=_AT_ONCE, actor=caller.actor)
    cancel_lines(ctx, caller.tenant_id, batch_id, most=_AT_ONCE, actor=caller.actor)
    return get_own(ctx, caller, batch_id)


def cancel_lines(ctx: Context, tenant_id: UUID, batch_id: UUID, *, most: int, actor: str) -> int:
    """Cancel up to `most` live lines of a batch that is being cancelled, some at a time. Answers how many."""
    total = 0
    while total < most:
        with ctx.db.transaction() as tx:
            live = store.list_live_lines(tx, tenant_id, batch_id, limit=_GROUP)
            ended = endings.cancel(tx, tenant_id, live, actor=actor)
            if not live:
                store.count_lines(tx, {batch_id: {}})
        ctx.bell.ring([row.id for row in ended])
        if held := [row.id for row in ended if row.held]:
            ctx.control.cancel_jobs(held)
        total += len(ended)
        if not live or not ended:
            break
    return total


def finish_batches(ctx: Context) -> int:
    """What a crash, or a lack of CPU workers, left of batches: expire the unread, cancel on, and let the files be
    written of what has ended. Answers how many batches were helped."""
    with ctx.db.transaction() as tx:
        overdue, cancelling = store.list_overdue(tx), store.list_cancelling(tx)
    for tenant_id, batch_id in overdue:
        with ctx.db.transaction() as tx:
            endings.cancel(tx, tenant_id, [batch_id], kinds=[READ], actor="upkeep")
            store.expire_unread(tx, batch_id)
    cancelled = sum(cancel_lines(ctx, *one, most=_AT_ONCE, actor="upkeep") > 0 for one in cancelling)
    with ctx.db.transaction() as tx:
        left = store.list_left(tx)
        store.count_lines(tx, {batch_id: {} for batch_id in left})
    return len(overdue) + cancelled + len(left)
