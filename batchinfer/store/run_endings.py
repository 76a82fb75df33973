"""What ends documents of a run that were never begun, and what puts a run right that a crash left behind.

Rows are taken in the order of everybody: queue, documents, batches, runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.jobs import JobClass
from batchinfer.store.backpressure import QUEUE_MOVED
from batchinfer.store.batches import open_lines
from batchinfer.store.claims import LIST, RENDER
from batchinfer.store.clean import as_jsonb
from batchinfer.store.columns import SCHEMA_VERSION
from batchinfer.store.counting import Mismatch

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.session import Transaction

_HOLD_LISTED = text("""
    SELECT id FROM documents WHERE run_id = :id AND stage = 'listed' ORDER BY number LIMIT :limit FOR UPDATE SKIP LOCKED
""")
_COUNT = text("""
    UPDATE runs SET closed = closed + :closed, failed = failed + CASE :outcome WHEN 'failed' THEN :closed ELSE 0 END
    WHERE id = :id RETURNING closed - :closed AS before
""")
_CLOSE = text("""
    UPDATE documents d SET stage = 'closed', outcome = :outcome, error = coalesce(d.error, :error), closed_at = now(),
        rendered_at = coalesce(d.rendered_at, now()), closed_number = :before + n.number
    FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS n (id, number) WHERE d.id = n.id
""")


def close_listed(
    tx: Transaction, run_id: UUID, outcome: str, error: dict[str, Any], *, limit: int = 1000
) -> list[UUID]:
    """End documents that were listed and never begun, as `outcome`. Answers which; with `limit` of them there may be
    more. To look whether all of the run is over is the caller's."""
    ids = list(tx.execute(_HOLD_LISTED, {"id": run_id, "limit": limit}).scalars())
    if ids:
        open_lines(tx, run_id, opened=-len(ids))
        before = tx.execute(_COUNT, {"id": run_id, "closed": len(ids), "outcome": outcome}).scalar_one()
        tx.execute(_CLOSE, {"ids": ids, "outcome": outcome, "error": as_jsonb(error), "before": before})
    return ids


_RENDERING = text("""
    SELECT q.id FROM documents d JOIN queue q ON q.id = d.id
    WHERE d.run_id = :id AND d.stage = 'queued' AND q.kind = :kind ORDER BY q.id LIMIT :limit
""")
_STUCK = text("""
    SELECT d.id, d.rendered_at IS NULL AS unrendered FROM documents d
    WHERE d.run_id = :id AND d.stage = 'queued' AND (d.rendered_at IS NULL OR d.jobs_ended >= d.jobs)
      AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.id = d.id)
    ORDER BY d.id LIMIT :limit FOR UPDATE OF d SKIP LOCKED
""")
_REQUEUE = text(f"""
    WITH moved AS (
        SELECT id, tenant_id, model, class, expires_at, schema_version FROM documents
        WHERE id = ANY (CAST(:ids AS uuid[])) AND stage = 'queued' AND rendered_at IS NULL)
    {QUEUE_MOVED}
""")  # noqa: S608 - made of constants
_MISCOUNTED = text("""
    SELECT d.id FROM documents d
    WHERE d.run_id = :id AND d.stage = 'queued' AND d.rendered_at IS NOT NULL AND d.jobs_ended < d.jobs
      AND d.rendered_at < now() - interval '1 minute'
      AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.id = d.id)
      AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.document_id = d.id AND j.final_state IS NULL)
    ORDER BY d.id LIMIT :limit FOR UPDATE OF d SKIP LOCKED
""")
_RECOUNT = text("""
    UPDATE documents d SET jobs_ended = d.jobs WHERE d.id = ANY (CAST(:ids AS uuid[])) AND d.jobs_ended < d.jobs
""")


_REQUEUE_LISTING = text(f"""
    INSERT INTO queue (id, kind, subject_id, tenant_id, model, class, rank, attempt, released, schema_version)
    SELECT b.id, '{LIST}', b.id, b.tenant_id, '{LIST}', b.class, array_position(CAST(:classes AS text[]), b.class) - 1,
           t.last, t.last, greatest(b.schema_version, :version)
    FROM batches b, LATERAL (SELECT coalesce(max(number), 0) AS last FROM attempts WHERE job_id = b.id) AS t
    WHERE b.id = :id AND b.status = 'in_progress' ON CONFLICT (id) DO NOTHING
""")  # noqa: S608 - made of constants


def requeue_listing(tx: Transaction, run_id: UUID) -> None:
    """Let the listing of a run go on that nobody does."""
    classes = [job_class.value for job_class in JobClass]
    tx.execute(_REQUEUE_LISTING, {"id": run_id, "classes": classes, "version": SCHEMA_VERSION})


def list_rendering(tx: Transaction, run_id: UUID, *, limit: int) -> list[UUID]:
    """Documents of a run that are being rendered, or wait for it."""
    return list(tx.execute(_RENDERING, {"id": run_id, "kind": RENDER, "limit": limit}).scalars())


def hold_stuck(tx: Transaction, run_id: UUID, *, limit: int = 500) -> tuple[list[UUID], list[UUID]]:
    """Documents that nobody works on, locked: those that are to be rendered, and those that are to be closed."""
    rows = tx.execute(_STUCK, {"id": run_id, "limit": limit}).all()
    return [row.id for row in rows if row.unrendered], [row.id for row in rows if not row.unrendered]


def requeue(tx: Transaction, ids: list[UUID]) -> list[UUID]:
    """Let documents be rendered again that nobody works on. Answers those that are now queued."""
    classes = [job_class.value for job_class in JobClass]
    return list(tx.execute(_REQUEUE, {"ids": ids, "classes": classes, "version": SCHEMA_VERSION}).scalars())


def recount_ended(tx: Transaction, run_id: UUID, *, limit: int = 500) -> list[UUID]:
    """Documents of which all jobs have ended although their count says otherwise: put right. Answers which."""
    ids = list(tx.execute(_MISCOUNTED, {"id": run_id, "limit": limit}).scalars())
    if ids:
        tx.execute(_RECOUNT, {"ids": ids})
    return ids


_LOCK_BATCH = text("SELECT open FROM batches WHERE id = :id FOR UPDATE")
_REAL_OPEN = """(SELECT count(*) FROM documents d WHERE d.run_id = r.id AND d.stage = 'listed')
    + (SELECT count(*) FROM documents d WHERE d.run_id = r.id AND d.stage = 'queued')
    + CAST(r.listed_at IS NULL AS int)"""
_COUNT_OPEN = text(f"SELECT {_REAL_OPEN} FROM runs r WHERE r.id = :id")  # noqa: S608 - made of constants
_CHECK = text(f"""
    SELECT r.tenant_id, coalesce(b.model, '') AS model, c.counter, c.counted, c.rows
    FROM runs r JOIN batches b ON b.id = r.id, LATERAL (VALUES
        ('run.open', CAST(b.open AS bigint), {_REAL_OPEN}),
        ('run.documents', r.documents, (SELECT count(*) FROM documents d WHERE d.run_id = r.id)),
        ('run.closed', r.closed, (SELECT count(*) FROM documents d WHERE d.run_id = r.id AND d.stage = 'closed')),
        ('run.skipped', r.skipped, (SELECT count(*) FROM documents d WHERE d.run_id = r.id AND d.stage = 'skipped'))
    ) AS c (counter, counted, rows)
    WHERE r.finished_at IS NULL AND r.state = 'running' AND c.counted <> c.rows
    ORDER BY 1, 2, 3 LIMIT 1000
""")  # noqa: S608 - made of constants


def mend_open(tx: Transaction, run_id: UUID) -> tuple[int, int]:
    """Put right what a run is said to wait for. Answers what it was, and what it is.

    Whoever changes a document changes the count in the same transaction, under the lock that is taken here first.
    """
    counted = int(tx.execute(_LOCK_BATCH, {"id": run_id}).scalar_one())
    found = int(tx.execute(_COUNT_OPEN, {"id": run_id}).scalar_one())
    if found != counted:
        open_lines(tx, run_id, opened=found - counted)
    return counted, found


def list_mismatches(tx: Transaction) -> list[Mismatch]:
    """Counters of live runs that differ from their documents."""
    return [Mismatch(**row._mapping) for row in tx.execute(_CHECK)]
