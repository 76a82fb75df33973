"""Why lines of a batch have no answer, for its page: by cause, the most frequent first, each with an example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.domain.batch_items import Cause
from batchinfer.domain.jobs import JobState

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.batches import Batch
    from batchinfer.store.session import Transaction

#: Jobs without an answer that are looked at, of each state: those that were made since the batch was.
LOOK = 5000


@dataclass(frozen=True)
class Failed:
    """Lines that failed for one reason, and the job of the first of them. `page` and `filename` are its document's."""

    cause: Cause
    job_id: UUID
    page: int | None
    filename: str | None
    has_picture: bool


# The state as a range keeps the plan to the index of a tenant's states, where the rows lie beside each other.
_CAUSES = text("""
    WITH looked AS (
        SELECT f.* FROM unnest(CAST(:states AS text[])) AS s (name) CROSS JOIN LATERAL (
            SELECT id, batch_id, final_state, line, error FROM jobs
            WHERE tenant_id = :tenant_id AND final_state BETWEEN s.name AND s.name AND id > :id AND deleted_at IS NULL
            ORDER BY final_state, id LIMIT :look) AS f),
    grouped AS (
        SELECT CASE final_state WHEN 'expired' THEN 'batch_expired' WHEN 'cancelled' THEN 'batch_cancelled'
                    ELSE coalesce(error ->> 'code', 'failed') END AS code,
               coalesce(error ->> 'type', 'server_error') AS error_type, final_state AS state, count(*) AS number,
               (array_agg(id ORDER BY line))[1] AS job_id
        FROM looked WHERE batch_id = :id GROUP BY 1, 2, 3),
    ends AS (SELECT coalesce(max(number), 0) AS most
             FROM (SELECT count(*) AS number FROM looked WHERE final_state IN ('failed', 'quarantined')
                   GROUP BY final_state) AS c)
    SELECT g.*, j.line, j.custom_id, j.page, d.filename, coalesce(j.error ->> 'message', '') AS message, e.most,
           jsonb_typeof(j.prompt #> '{images,0,normal}') = 'object' AS has_picture
    FROM grouped g CROSS JOIN ends e JOIN jobs j ON j.id = g.job_id LEFT JOIN documents d ON d.id = j.document_id
    ORDER BY g.number DESC, j.line
""")


def list_failed(tx: Transaction, batch: Batch) -> tuple[list[Failed], bool]:
    """The causes, and whether they are of all lines that failed: a look ends after LOOK jobs."""
    counts = batch.counts
    states = ["failed", "quarantined"] if counts.failed else []
    states += [name for name in ("expired", "cancelled") if getattr(counts, name)]
    if not states:
        return [], True
    values = {"states": states, "tenant_id": batch.tenant_id, "id": batch.id, "look": LOOK}
    rows = tx.execute(_CAUSES, values).all()
    kept = {"expired": counts.expired, "cancelled": counts.cancelled}
    found = [
        Failed(
            Cause(row.code, row.error_type, JobState(row.state), kept.get(row.state, row.number), row.line,
                  row.custom_id, row.message),
            row.job_id, row.page, row.filename, bool(row.has_picture),
        )
        for row in rows
    ]  # fmt: skip
    found.sort(key=lambda failed: -failed.cause.count)
    return found, all(row.most < LOOK for row in rows)
