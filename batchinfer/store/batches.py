"""Batches: their state, how far their input is read, and the counts of their lines.

A batch's row is changed after the queue rows and before the counters of `minutes`, by everybody in this order. Counts
rise in the transaction that ends the lines; the one that ends the last line also queues the writing of the files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.batches import Batch, BatchState, Counts
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.runs import DOCUMENTS
from batchinfer.observe.traces import encode_current, new_trace
from batchinfer.store.claims import EXPORT, LIST, READ
from batchinfer.store.clean import as_jsonb, clean_text
from batchinfer.store.horizons import with_horizons
from batchinfer.store.tables import SCHEMA_VERSION
from batchinfer.store.telling import tell_of_batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta
    from uuid import UUID

    from sqlalchemy import Row

    from batchinfer.store.claims import Claim
    from batchinfer.store.horizons import Horizons
    from batchinfer.store.session import Transaction

#: What a line that ended adds to its batch.
COUNTERS = (
    "completed", "failed", "expired", "cancelled", "prompt_tokens", "completion_tokens", "cached_tokens", "images",
    "cache_hits",
)  # fmt: skip
_TIMES = (
    "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at",
    "paused_at",
)  # fmt: skip
_PLAIN = (
    "id", "tenant_id", "endpoint", "input_file_id", "completion_window", "created_at", "expires_at", "model", "errors",
    "metadata", "output_file_id", "error_file_id", "parent_id", "cache_hits",
)  # fmt: skip
_COUNTS = ("total", "completed", "failed", "expired", "cancelled")
_INSERT = text("""
    INSERT INTO batches (id, tenant_id, class, endpoint, completion_window, input_file_id, parent_id, metadata, options,
        key_id, trace, expires_at, schema_version)
    VALUES (:id, :tenant_id, :job_class, :endpoint, :completion_window, :input_file_id, :parent_id, :metadata,
        :options, :key_id, :trace, now() + CAST(:window AS interval), :version)
""")
_FIND = text("SELECT * FROM batches WHERE id = :id AND tenant_id = :tenant_id")
_LOCK = text("SELECT * FROM batches WHERE id = :id AND tenant_id = :tenant_id FOR UPDATE")
_LOAD = text("SELECT * FROM batches WHERE id = ANY (CAST(:ids AS uuid[]))")
_HOLD = text("""
    SELECT b.* FROM batches b JOIN queue q ON q.id = b.id
    WHERE q.id = :id AND q.kind = :kind AND q.state = 'running' AND q.attempt = :attempt
      AND q.lease_id IS NOT DISTINCT FROM CAST(:lease_id AS uuid)
    FOR UPDATE OF q, b
""")


@dataclass(frozen=True)
class NewBatch:
    """A batch to be stored. `options` is {"output_expires_s": …}, and for a retry of `parent_id` {"retry": {"states",
    "custom_ids", "codes", "merge"}}, and where the lines came as the body of the request {"lines": true}."""

    id: UUID
    tenant_id: UUID
    job_class: JobClass
    endpoint: str
    completion_window: str
    window: timedelta
    #: None for a batch of documents.
    input_file_id: UUID | None
    metadata: dict[str, str]
    options: dict[str, Any]
    parent_id: UUID | None = None
    #: Whose usage its lines are.
    key_id: UUID | None = None
    #: That its lines belong to; a run that no request asked for begins one.
    trace: str = field(default_factory=lambda: encode_current() or new_trace().encode())


@dataclass(frozen=True)
class Held:
    """A batch as the parts that work on it see it: the batch, its class, its options, and the lines made jobs."""

    batch: Batch
    job_class: JobClass
    options: dict[str, Any]
    lines_read: int
    key_id: UUID | None = None
    trace: str | None = None


def insert_batch(tx: Transaction, batch: NewBatch) -> None:
    """Store a batch; its queue row of kind read goes in with the same transaction."""
    values = vars(batch) | {
        "job_class": batch.job_class.value, "metadata": as_jsonb(batch.metadata), "options": as_jsonb(batch.options),
        "completion_window": clean_text(batch.completion_window), "version": SCHEMA_VERSION,
    }  # fmt: skip
    tx.execute(_INSERT, values)


def find_batch(tx: Transaction, tenant_id: UUID, batch_id: UUID) -> Held | None:
    """A tenant's batch, or None."""
    row = tx.execute(_FIND, {"id": batch_id, "tenant_id": tenant_id}).first()
    return _as_held(row) if row else None


def lock_batch(tx: Transaction, tenant_id: UUID, batch_id: UUID) -> Held | None:
    """The same, its row locked until the transaction ends; the batch's queue row has to be taken before."""
    row = tx.execute(_LOCK, {"id": batch_id, "tenant_id": tenant_id}).first()
    return _as_held(row) if row else None


def load_batches(tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, Held]:
    """Batches by id; those that are gone are missing from the answer."""
    return {row.id: _as_held(row) for row in tx.execute(_LOAD, {"ids": list(ids)})}


def list_batches(tx: Transaction, tenant_id: UUID, *, after: UUID | None = None, limit: int = 20) -> list[Held]:
    """A tenant's batches, newest first, beginning below the id `after`."""
    bound = "AND id < :after" if after else ""
    statement = text(f"SELECT * FROM batches WHERE tenant_id = :tenant_id {bound} ORDER BY id DESC LIMIT :limit")  # noqa: S608
    cursor = {"after": after} if after else {}
    return [_as_held(row) for row in tx.execute(statement, {"tenant_id": tenant_id, "limit": limit, **cursor})]


def hold_batch(tx: Transaction, *, lease_id: UUID, claim: Claim) -> Held | None:
    """Lock a batch that this lease reads or writes, until the transaction ends. None when the fence refused."""
    values = {"id": claim.id, "kind": claim.kind, "attempt": claim.attempt, "lease_id": lease_id}
    row = tx.execute(_HOLD, values).first()
    return _as_held(row) if row else None


_BEGIN = text("""
    UPDATE batches SET status = 'in_progress', in_progress_at = now(), total = :total, model = :model
    WHERE id = :id AND status = 'validating'
""")
_REFUSE = text("""
    UPDATE batches SET status = 'failed', failed_at = now(), errors = :errors WHERE id = :id AND status = 'validating'
    RETURNING tenant_id
""")
_ADVANCE = text("UPDATE batches SET lines_read = :lines_read WHERE id = :id AND lines_read < :lines_read")
_CANCEL = text("""
    UPDATE batches SET cancelling_at = now(),
        status = CASE status WHEN 'validating' THEN 'cancelled' ELSE 'cancelling' END,
        cancelled_at = CASE status WHEN 'validating' THEN now() END
    WHERE id = :id AND status IN ('validating', 'in_progress', 'finalizing')
    RETURNING tenant_id, status
""")
_END = text("""
    UPDATE batches SET status = :status, output_file_id = :output_file_id, error_file_id = :error_file_id,
        cancelled = greatest(cancelled, total - completed - failed - expired),
        options = options || CAST(:ended AS jsonb),
        completed_at = CASE :status WHEN 'completed' THEN now() END,
        failed_at = CASE :status WHEN 'failed' THEN now() END,
        expired_at = CASE :status WHEN 'expired' THEN now() END,
        cancelled_at = CASE :status WHEN 'cancelled' THEN now() END
    WHERE id = :id
    RETURNING tenant_id
""")


def begin_batch(tx: Transaction, batch_id: UUID, *, total: int, model: str | None) -> None:
    """The input file is good: `total` lines, of one model or (None) of several. The caller holds the batch."""
    tx.execute(_BEGIN, {"id": batch_id, "total": total, "model": model})


def refuse_batch(tx: Transaction, batch_id: UUID, errors: list[dict[str, Any]]) -> None:
    """The input file is bad. The caller holds the batch."""
    for row in tx.execute(_REFUSE, {"id": batch_id, "errors": as_jsonb(errors)}).all():
        tell_of_batch(tx, row.tenant_id, batch_id, BatchState.FAILED)


def advance_batch(tx: Transaction, batch_id: UUID, lines_read: int) -> None:
    """So many lines are jobs now. The caller holds the batch."""
    tx.execute(_ADVANCE, {"id": batch_id, "lines_read": lines_read})


def cancel_batch(tx: Transaction, batch_id: UUID) -> None:
    """Begin to cancel; one whose file was never read is cancelled at once. The caller holds the batch."""
    for row in tx.execute(_CANCEL, {"id": batch_id}).all():
        if row.status == BatchState.CANCELLED:
            tell_of_batch(tx, row.tenant_id, batch_id, BatchState.CANCELLED)


def end_batch(
    tx: Transaction,
    batch_id: UUID,
    status: BatchState,
    *,
    output_file_id: UUID | None,
    error_file_id: UUID | None,
    merged: int = 0,
) -> None:
    """The files are written, the batch has ended; `merged` of their lines are those of batches before it. The caller
    holds it."""
    values = {"id": batch_id, "status": status.value, "output_file_id": output_file_id, "error_file_id": error_file_id}
    for row in tx.execute(_END, values | {"ended": as_jsonb({"merged": merged})}).all():
        tell_of_batch(tx, row.tenant_id, batch_id, status)


_ORDER = text("SELECT id FROM batches WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE")
# All lines that will be jobs have ended: all of the file, or, once it is cancelled, as far as it was read. The tries of
# the new row are numbered on from those of the reading.
_COUNT = text(f"""
    WITH added AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), {", ".join(f"CAST(:{name} AS bigint[])" for name in COUNTERS)})
        AS a (id, {", ".join(COUNTERS)})),
    counted AS (
        UPDATE batches b SET {", ".join(f"{name} = b.{name} + a.{name}" for name in COUNTERS)}
        FROM added a WHERE b.id = a.id
        RETURNING b.id, b.tenant_id, b.class, b.schema_version, b.status,
            b.completed + b.failed + b.expired + b.cancelled
                >= CASE WHEN b.status = 'cancelling' THEN b.lines_read
                        WHEN b.endpoint = '{DOCUMENTS}' THEN b.total ELSE greatest(b.total, 1) END
            AND b.open = 0 AS over),
    of_minute AS (
        INSERT INTO batch_minutes (batch_id, minute, tenant_id, completed, failed)
        SELECT c.id, date_trunc('minute', now()), c.tenant_id, a.completed, a.failed + a.expired
        FROM counted c JOIN added a ON a.id = c.id WHERE a.completed + a.failed + a.expired > 0
        ON CONFLICT (batch_id, minute) DO UPDATE SET completed = batch_minutes.completed + excluded.completed,
            failed = batch_minutes.failed + excluded.failed),
    closing AS (
        SELECT * FROM counted WHERE over AND status IN ('in_progress', 'finalizing', 'cancelling'))
    INSERT INTO queue (id, kind, subject_id, tenant_id, model, class, rank, attempt, released, schema_version)
    SELECT c.id, '{EXPORT}', c.id, c.tenant_id, '{EXPORT}', c.class,
           array_position(CAST(:classes AS text[]), c.class) - 1, t.last, t.last,
           greatest(c.schema_version, :version)
    FROM closing c, LATERAL (SELECT coalesce(max(number), 0) AS last FROM attempts WHERE job_id = c.id) AS t
    ON CONFLICT (id) DO NOTHING RETURNING id
""")  # noqa: S608 - made of constants
_OPEN = text("""
    UPDATE batches SET open = open + :opened, total = total + :lines, lines_read = lines_read + :lines
    WHERE id = :id RETURNING total - :lines AS before
""")
_FINALIZE = text("""
    UPDATE batches SET status = 'finalizing', finalizing_at = now()
    WHERE id = ANY (CAST(:ids AS uuid[])) AND status = 'in_progress'
""")


def count_lines(tx: Transaction, changes: Mapping[UUID, Mapping[str, int]]) -> list[UUID]:
    """Add what ended to its batches (COUNTERS, by batch). Answers those whose last line that was: their files are to be
    written. With nothing to add it only looks whether that is so."""
    if not changes:
        return []
    ids = sorted(changes)
    if len(ids) > 1:
        tx.execute(_ORDER, {"ids": ids})
    columns: dict[str, Any] = {name: [changes[one].get(name, 0) for one in ids] for name in COUNTERS}
    classes = [job_class.value for job_class in JobClass]
    values = {"ids": ids, "classes": classes, "version": SCHEMA_VERSION, **columns}
    over = list(tx.execute(_COUNT, values).scalars())
    if over:
        tx.execute(_FINALIZE, {"ids": over})
    return over


def open_lines(tx: Transaction, batch_id: UUID, *, opened: int = 0, lines: int = 0) -> int:
    """Of a batch of documents: so many more parts may bring lines (or, below 0, fewer), and so many lines came.

    Answers how many lines there were before. What has to follow, as the last part: `count_lines` of it with nothing.
    """
    return int(tx.execute(_OPEN, {"id": batch_id, "opened": opened, "lines": lines}).scalar_one())


_LIVE_LINES = text("""
    SELECT id FROM jobs WHERE batch_id = :id AND tenant_id = :tenant_id AND final_state IS NULL ORDER BY id LIMIT :limit
""")
_OVERDUE = text("""
    SELECT b.id, b.tenant_id FROM batches b WHERE b.status = 'validating' AND b.expires_at <= now() LIMIT :limit
""")
_EXPIRE = text("""
    UPDATE batches SET status = 'expired', expired_at = now() WHERE id = :id AND status = 'validating'
    RETURNING tenant_id
""")
_CANCELLING = text("SELECT id, tenant_id FROM batches WHERE status = 'cancelling' ORDER BY id LIMIT :limit")
_LEFT = text(f"""
    SELECT id FROM batches b WHERE status IN ('in_progress', 'finalizing', 'cancelling')
      AND completed + failed + expired + cancelled >= CASE status WHEN 'cancelling' THEN lines_read ELSE total END
      AND open = 0
      AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.id = b.id AND q.kind IN ('{READ}', '{EXPORT}', '{LIST}'))
    ORDER BY id LIMIT :limit
""")  # noqa: S608 - made of constants
_FORGET = with_horizons("""
    WITH gone AS (
        DELETE FROM batches WHERE id IN (
            SELECT id FROM batches b WHERE OVER(b.id) AND status IN ('completed', 'failed', 'expired', 'cancelled')
              AND NOT EXISTS (SELECT 1 FROM batches c WHERE c.parent_id = b.id
                              AND c.status IN ('validating', 'in_progress', 'finalizing', 'cancelling'))
            LIMIT :limit FOR UPDATE SKIP LOCKED)
        RETURNING id),
    minutes AS (DELETE FROM batch_minutes m USING gone g WHERE m.batch_id = g.id)
    SELECT count(*) FROM gone
""")


def list_live_lines(tx: Transaction, tenant_id: UUID, batch_id: UUID, *, limit: int) -> list[UUID]:
    """The ids of its jobs that have not ended."""
    return list(tx.execute(_LIVE_LINES, {"id": batch_id, "tenant_id": tenant_id, "limit": limit}).scalars())


def list_overdue(tx: Transaction, *, limit: int = 100) -> list[tuple[UUID, UUID]]:
    """(tenant, batch) of those whose time was over before their file was read."""
    return [(row.tenant_id, row.id) for row in tx.execute(_OVERDUE, {"limit": limit})]


def expire_unread(tx: Transaction, batch_id: UUID) -> None:
    """End a batch whose time was over before its file was read; its queue row has to be gone before."""
    for row in tx.execute(_EXPIRE, {"id": batch_id}).all():
        tell_of_batch(tx, row.tenant_id, batch_id, BatchState.EXPIRED)


def list_cancelling(tx: Transaction, *, limit: int = 100) -> list[tuple[UUID, UUID]]:
    """(tenant, batch) of those that are being cancelled."""
    return [(row.tenant_id, row.id) for row in tx.execute(_CANCELLING, {"limit": limit})]


def list_left(tx: Transaction, *, limit: int = 100) -> list[UUID]:
    """Batches of which all lines have ended and whose files nobody writes: a crash left them behind."""
    return list(tx.execute(_LEFT, {"limit": limit}).scalars())


def forget_ended(tx: Transaction, *, before: Horizons, limit: int = 20_000) -> int:
    """Drop batches older than an id that have ended, with their minutes, at most `limit`. Answers how many."""
    number: int = tx.execute(_FORGET, {**before.values, "limit": limit}).scalar_one()
    return number


def _as_held(row: Row[Any]) -> Held:
    usage = None
    if row.completed:
        usage = {
            "input_tokens": row.prompt_tokens,
            "input_tokens_details": {"cached_tokens": row.cached_tokens},
            "output_tokens": row.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": row.prompt_tokens + row.completion_tokens,
        }
    batch = Batch(
        **{name: getattr(row, name) for name in _PLAIN},
        status=BatchState(row.status),
        job_class=JobClass(row._mapping["class"]),
        counts=Counts(*(getattr(row, name) for name in _COUNTS)),
        usage=usage,
        merged=row.options.get("merged", 0),
        times={name: getattr(row, name) for name in _TIMES if getattr(row, name) is not None},
    )
    return Held(batch, batch.job_class, row.options, row.lines_read, row.key_id, row.trace)
