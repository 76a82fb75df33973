"""How far a run's rendering is ahead, and the listed documents that become work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.domain.jobs import JobClass
from batchinfer.store.claims import RENDER
from batchinfer.store.columns import SCHEMA_VERSION

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Ahead:
    """What stands between the listing and the models. Pages are lines of the run's batch."""

    pages: int
    #: Of these.
    ended: int
    #: Bytes of the pages of documents that are closed.
    page_bytes: int
    #: Documents whose pages are all there, or were.
    rendered: int
    #: Documents at work, whose pages are not all there yet.
    unrendered: int


# Held to the end of the transaction: two that pump the same run at once would both see the same room.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(CAST(:id AS text), 7215002))")
_FIND = text("""
    SELECT b.total AS pages, b.completed + b.failed + b.expired + b.cancelled AS ended, r.page_bytes,
           r.closed + q.rendered AS rendered, q.unrendered
    FROM batches b JOIN runs r ON r.id = b.id, LATERAL (
        SELECT count(*) FILTER (WHERE rendered_at IS NOT NULL) AS rendered,
               count(*) FILTER (WHERE rendered_at IS NULL) AS unrendered
        FROM documents WHERE run_id = b.id AND stage = 'queued') AS q
    WHERE b.id = :id AND b.status = 'in_progress' AND b.paused_at IS NULL AND b.expires_at > now()
""")
#: A new queue row of kind render for each of `moved` (id, tenant_id, model, class, expires_at, schema_version); its
#: tries are numbered on from those that were before.
QUEUE_MOVED = f"""
    INSERT INTO queue
        (id, kind, subject_id, tenant_id, model, class, rank, expires_at, attempt, released, schema_version)
    SELECT m.id, '{RENDER}', m.id, m.tenant_id, m.model, m.class,
           array_position(CAST(:classes AS text[]), m.class) - 1, m.expires_at, t.last, t.last,
           greatest(m.schema_version, :version)
    FROM moved m, LATERAL (SELECT coalesce(max(number), 0) AS last FROM attempts WHERE job_id = m.id) AS t
    ORDER BY m.id ON CONFLICT (id) DO NOTHING RETURNING id
"""  # noqa: S608 - made of constants
_QUEUE = text(f"""
    WITH next AS (
        SELECT id FROM documents WHERE run_id = :id AND stage = 'listed'
        ORDER BY number LIMIT :limit FOR UPDATE SKIP LOCKED),
    moved AS (
        UPDATE documents d SET stage = 'queued', class = b.class, expires_at = b.expires_at
        FROM next n, batches b WHERE d.id = n.id AND b.id = :id
        RETURNING d.id, d.tenant_id, d.model, d.class, d.expires_at, d.schema_version)
    {QUEUE_MOVED}
""")  # noqa: S608 - made of constants


def hold_run(tx: Transaction, run_id: UUID) -> Ahead | None:
    """How far a run is ahead; nobody else lets documents of it be rendered until the transaction ends. None: it is
    paused, or not at work."""
    tx.execute(_LOCK, {"id": str(run_id)})
    row = tx.execute(_FIND, {"id": run_id}).first()
    return Ahead(row.pages, row.ended, row.page_bytes, row.rendered, row.unrendered) if row else None


def queue_listed(tx: Transaction, run_id: UUID, limit: int) -> list[UUID]:
    """Let the next listed documents be rendered, in the order of the manifest. Answers their ids."""
    classes = [job_class.value for job_class in JobClass]
    values = {"id": run_id, "limit": limit, "classes": classes, "version": SCHEMA_VERSION}
    return list(tx.execute(_QUEUE, values).scalars())
