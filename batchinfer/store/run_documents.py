"""The manifest of a run as a reader sees it: its documents by their number, and how each stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.store.batch_items import CODE
from batchinfer.store.clean import clean_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class RunDocument:
    """A document of a run. `stage` is listed, queued, closed or skipped; `outcome` is there once it is closed."""

    id: UUID
    number: int
    uri: str | None
    filename: str | None
    #: '' until its first bytes were read.
    media_type: str
    size_bytes: int | None
    stage: str
    outcome: str | None
    #: The earlier document whose pages are this one's.
    same_as: UUID | None
    #: Of the file; None until it was opened.
    pages: int | None
    #: Its page jobs, and how those stand.
    jobs: int
    jobs_ended: int
    jobs_failed: int
    pages_blank: int
    pages_fallback: int
    error: dict[str, Any] | None
    closed_at: datetime | None


_LIST = """
    SELECT id, number, uri, filename, media_type, size_bytes, stage, outcome, same_as, pages, jobs, jobs_ended,
           jobs_failed, pages_blank, pages_fallback, error, closed_at
    FROM documents WHERE run_id = :run_id AND tenant_id = :tenant_id {bounds} ORDER BY number LIMIT :limit
"""
_BOUNDS = {
    "stage": "AND stage = :stage",
    "outcome": "AND outcome = :outcome",
    "after": "AND number > (SELECT number FROM documents WHERE id = :after AND run_id = :run_id)",
}


def list_run_documents(
    tx: Transaction,
    tenant_id: UUID,
    run_id: UUID,
    *,
    stage: str | None = None,
    outcome: str | None = None,
    after: UUID | None = None,
    limit: int = 20,
) -> list[RunDocument]:
    """Documents of a run in the order in which they were listed, beginning behind the document `after`."""
    asked = {"stage": stage, "outcome": outcome, "after": after}
    given = {name: value for name, value in asked.items() if value is not None}
    statement = text(_LIST.format(bounds=" ".join(_BOUNDS[name] for name in given)))
    rows = tx.execute(statement, {"run_id": run_id, "tenant_id": tenant_id, "limit": limit, **given})
    return [RunDocument(**row._mapping) for row in rows]


_FAILED = text(f"""
    SELECT d.uri FROM documents d
    WHERE d.run_id = :run_id AND d.tenant_id = :tenant_id AND d.uri IS NOT NULL AND d.same_as IS NULL
      AND ((cardinality(CAST(:codes AS text[])) = 0 AND d.outcome IN ('failed', 'completed_with_errors'))
           OR d.error ->> 'code' = ANY (CAST(:codes AS text[]))
           OR d.id IN (
               SELECT j.document_id FROM jobs j
               WHERE j.batch_id = :run_id AND j.final_state = ANY (CAST(:states AS text[])) AND j.deleted_at IS NULL
                 AND (cardinality(CAST(:codes AS text[])) = 0 OR {CODE} = ANY (CAST(:codes AS text[])))))
    ORDER BY d.number LIMIT :limit
""")  # noqa: S608 - made of constants


def list_failed_uris(
    tx: Transaction, tenant_id: UUID, run_id: UUID, states: Sequence[str], codes: Sequence[str], *, limit: int
) -> list[str]:
    """Addresses of a run's documents that failed, or have a page that ended in one of `states`, for one of `codes`
    where any are given; each file once, in the order in which they were listed."""
    values = {"states": list(states), "codes": [clean_text(code) for code in codes], "limit": limit}
    return list(tx.execute(_FAILED, {"run_id": run_id, "tenant_id": tenant_id, **values}).scalars())
