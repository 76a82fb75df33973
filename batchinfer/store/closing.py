"""Documents of runs whose jobs have all ended: how those ended, what is let go of, and what the run counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.documents import Outcome
from batchinfer.domain.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.store.documents import Rendering
    from batchinfer.store.session import Transaction

_COUNTS = text("""
    SELECT coalesce(final_state, 'queued') AS state, count(*) AS number FROM jobs WHERE document_id = :id GROUP BY 1
""")
_JOBS = text("SELECT id FROM jobs WHERE document_id = :id")
# Of a page that has no answer, nothing.
_ANSWERS = text("""
    SELECT j.page, r.text FROM jobs j LEFT JOIN results r ON r.job_id = j.id
    WHERE j.document_id = :id AND j.page IS NOT NULL ORDER BY j.page
""")
_IS_MERGED = text("SELECT EXISTS (SELECT 1 FROM jobs WHERE document_id = :id AND page IS NULL)")
# The small copies stay: their names are in the prompts.
_LET_GO = text("""
    WITH pages AS (
        SELECT j.id, image -> 'thumbnail' ->> 'sha256' AS thumbnail
        FROM jobs j, jsonb_array_elements(CASE jsonb_typeof(j.prompt -> 'images') WHEN 'array'
                                          THEN j.prompt -> 'images' ELSE '[]' END) AS image
        WHERE j.document_id = :id),
    pictures AS (
        SELECT b.job_id, b.sha256, b.job_id = ANY (CAST(:kept AS uuid[])) AS stays
        FROM job_blobs b JOIN (SELECT DISTINCT id FROM pages) AS p ON b.job_id = p.id
        WHERE b.sha256 NOT IN (SELECT thumbnail FROM pages WHERE thumbnail IS NOT NULL)),
    gone AS (
        DELETE FROM job_blobs b USING pictures g WHERE b.job_id = g.job_id AND b.sha256 = g.sha256 AND NOT g.stays)
    SELECT g.sha256, bool_or(NOT g.stays) AS goes, coalesce(max(f.size_bytes), 0) AS size_bytes
    FROM pictures g LEFT JOIN blobs f ON f.tenant_id = :tenant_id AND f.sha256 = g.sha256
    GROUP BY g.sha256 ORDER BY g.sha256
""")
_ERASE = text("""
    UPDATE blobs SET erase_at = now() + make_interval(secs => :wait_s) WHERE (tenant_id, sha256) IN (
        SELECT tenant_id, sha256 FROM blobs WHERE tenant_id = :tenant_id AND sha256 = ANY (CAST(:names AS text[]))
        ORDER BY sha256 FOR NO KEY UPDATE)
""")
_COUNT_RUN = text("""
    UPDATE runs SET closed = closed + 1, failed = failed + :failed, with_errors = with_errors + :with_errors,
        page_bytes = page_bytes + :page_bytes
    WHERE id = :id RETURNING closed
""")
_CLOSE = text("""
    UPDATE documents SET stage = 'closed', outcome = :outcome, closed_number = :number, closed_at = now(),
        jobs = jobs + :missing, jobs_ended = jobs_ended + :missing, jobs_failed = jobs_failed + :failed
    WHERE id = :id
""")
_ADD_JOB = text("UPDATE documents SET jobs = jobs + 1 WHERE id = :id")


def count_jobs(tx: Transaction, document_id: UUID) -> dict[JobState, int]:
    """How many jobs of a document ended in which state; one that has not is counted as queued."""
    return {JobState(row.state): row.number for row in tx.execute(_COUNTS, {"id": document_id})}


def list_answers(tx: Transaction, document_id: UUID) -> list[tuple[int, str]]:
    """(page, answer) of each job of a document's pages, in order; an empty text where there is none."""
    return [(row.page, row.text or "") for row in tx.execute(_ANSWERS, {"id": document_id})]


def is_merged(tx: Transaction, document_id: UUID) -> bool:
    """Whether the job that puts the answers of a document's pages together is there."""
    found: bool = tx.execute(_IS_MERGED, {"id": document_id}).scalar_one()
    return found


def add_job(tx: Transaction, document_id: UUID) -> None:
    """Note one more job of a document. The caller holds it."""
    tx.execute(_ADD_JOB, {"id": document_id})


@dataclass(frozen=True)
class LetGo:
    """Blobs that some jobs of a document refer to no more, and the bytes of all its pages together."""

    names: list[str]
    size_bytes: int


def list_jobs(tx: Transaction, document_id: UUID) -> list[UUID]:
    """The ids of a document's jobs."""
    return list(tx.execute(_JOBS, {"id": document_id}).scalars())


def let_pages_go(tx: Transaction, document: Rendering, kept: Sequence[UUID] = ()) -> LetGo:
    """No job of a document refers to the pictures of its pages any more, but to their small copies alone; those of
    `kept` do."""
    values = {"id": document.id, "tenant_id": document.tenant_id, "kept": list(kept)}
    rows = tx.execute(_LET_GO, values).all()
    return LetGo([row.sha256 for row in rows if row.goes], sum(row.size_bytes for row in rows))


def let_go(tx: Transaction, tenant_id: UUID, names: Sequence[str], *, wait_s: float) -> None:
    """Look at blobs after `wait_s` seconds: they go where nothing refers to them."""
    if names:
        tx.execute(_ERASE, {"tenant_id": tenant_id, "names": sorted(names), "wait_s": wait_s})


def count_closed(tx: Transaction, run_id: UUID, outcome: Outcome, *, page_bytes: int) -> int:
    """Count a document that is closed now. Answers its number in the order of closing. After batches, as everybody
    does."""
    values: dict[str, Any] = {
        "id": run_id, "failed": int(outcome is Outcome.FAILED), "page_bytes": page_bytes,
        "with_errors": int(outcome is Outcome.COMPLETED_WITH_ERRORS),
    }  # fmt: skip
    return int(tx.execute(_COUNT_RUN, values).scalar_one())


def mark_closed(tx: Transaction, document_id: UUID, outcome: Outcome, *, number: int, missing: int) -> None:
    """A document has ended, as `outcome`, as the `number`th of its run; `missing` of its jobs were never made. The
    caller holds it."""
    failed = missing if outcome in (Outcome.FAILED, Outcome.COMPLETED_WITH_ERRORS) else 0
    values = {"id": document_id, "outcome": outcome.value, "number": number, "missing": missing, "failed": failed}
    tx.execute(_CLOSE, values)
