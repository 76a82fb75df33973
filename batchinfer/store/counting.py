"""Counters held against the rows that they count. Both were written in the same transaction, with its time: they differ
only where something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

if TYPE_CHECKING:
    from datetime import datetime

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Mismatch:
    """A counter of one tenant and model that does not say what its rows say."""

    tenant_id: UUID
    model: str
    counter: str
    counted: int
    rows: int


#: Endings that stay: a quarantined job may be released, and is counted by its event.
_STATES = ("succeeded", "failed", "cancelled", "expired")
#: Of all models together: a job may have gone on to another one since.
_TRIED = ("retried", "lost")
_IN_TIME = "{column} >= :since AND {column} < :until"
_CHECK = text(
    f"""
    WITH counted AS (
        SELECT m.tenant_id, CASE WHEN c.counter = ANY (CAST(:tried AS text[])) THEN '' ELSE m.model END AS model,
               c.counter, sum(c.number) AS number
        FROM minutes m, LATERAL (VALUES
            {", ".join(f"('{name}', m.{name})" for name in (*_STATES, "retried", "lost", "completion_tokens"))}
        ) AS c (counter, number)
        WHERE {_IN_TIME.format(column="m.minute")} GROUP BY 1, 2, 3
    ),
    found AS (
        SELECT tenant_id, model, final_state AS counter, count(*) AS number FROM jobs
        WHERE {_IN_TIME.format(column="finished_at")} AND final_state = ANY (CAST(:states AS text[])) GROUP BY 1, 2, 3
        UNION ALL
        SELECT j.tenant_id, j.model, 'completion_tokens', sum(CAST(r.usage ->> 'completion_tokens' AS bigint))
        FROM results r JOIN jobs j ON j.id = r.job_id
        WHERE {_IN_TIME.format(column="r.created_at")} GROUP BY 1, 2
        UNION ALL
        SELECT a.tenant_id, '', CASE a.outcome WHEN 'lost' THEN 'lost' ELSE 'retried' END, count(*)
        FROM attempts a
        WHERE {_IN_TIME.format(column="a.finished_at")} AND a.outcome IN ('lost', 'retry') AND a.kind <> 'deliver'
        GROUP BY 1, 2, 3
    )
    SELECT tenant_id, model, counter, CAST(coalesce(c.number, 0) AS bigint) AS counted,
           CAST(coalesce(f.number, 0) AS bigint) AS rows
    FROM (SELECT * FROM counted WHERE number <> 0) c FULL JOIN found f USING (tenant_id, model, counter)
    WHERE coalesce(c.number, 0) <> coalesce(f.number, 0)
    ORDER BY 1, 2, 3 LIMIT 1000
    """  # noqa: S608 - made of constants
)


def list_mismatches(tx: Transaction, *, since: datetime, until: datetime) -> list[Mismatch]:
    """Counters of the minutes from `since` to before `until` (both whole minutes) that differ from their rows."""
    values = {"since": since, "until": until, "states": list(_STATES), "tried": list(_TRIED)}
    return [Mismatch(**row._mapping) for row in tx.execute(_CHECK, values)]
