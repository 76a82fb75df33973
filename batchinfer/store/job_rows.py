"""Jobs as lines of a file: what was asked, what was answered, and how it went, with the whole texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.store.endings import TRIES
from batchinfer.store.jobs import STATE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class JobLine:
    """A job with its texts. `prompt` is the texts of its messages, each on a line of its own."""

    id: UUID
    state: str
    model: str
    job_class: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    document_id: UUID | None
    page: int | None
    batch_id: UUID | None
    line: int | None
    custom_id: str | None
    metadata: dict[str, str]
    prompt: str | None
    answer: str | None
    finish_reason: str | None
    error: dict[str, Any] | None


_LOAD = text(f"""
    SELECT j.id, {STATE} AS state, j.model, j.class AS job_class, j.created_at,
           CASE WHEN q.id IS NULL THEN j.started_at WHEN q.kind = 'infer' THEN q.leased_at END AS started_at,
           j.finished_at, j.attempts + coalesce({TRIES}, 0) AS attempts, j.document_id, j.page, j.batch_id, j.line,
           j.custom_id, j.metadata,
           (SELECT string_agg(one #>> '{{}}', E'\\n')
            FROM jsonb_path_query(j.prompt, '$.messages[*].content[*].text') AS one) AS prompt,
           r.text AS answer, r.finish_reason, j.error
    FROM jobs j LEFT JOIN queue q ON q.id = j.id
    LEFT JOIN results r ON r.job_id = j.id AND r.job_id = ANY (CAST(:ids AS uuid[]))
    WHERE j.id = ANY (CAST(:ids AS uuid[])) AND j.tenant_id = :tenant_id AND j.deleted_at IS NULL
    ORDER BY j.id DESC
""")  # noqa: S608 - made of constants


def load_lines(tx: Transaction, tenant_id: UUID, ids: Sequence[UUID]) -> list[JobLine]:
    """A tenant's jobs of these ids, newest first; what was deleted meanwhile is missing."""
    if not ids:
        return []
    return [JobLine(**row._mapping) for row in tx.execute(_LOAD, {"ids": list(ids), "tenant_id": tenant_id})]
