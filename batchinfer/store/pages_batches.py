"""Reads that only the pages of batches need: light rows of the list, and what is tried again, a minute and in all.

Nothing here reads what a batch has done: its counts are kept with it, and looks into the queue and at failed jobs end
after LOOK rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.store.batches import load_batches
from batchinfer.store.clean import clean_text
from batchinfer.store.series import Minute

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.domain.batches import Batch
    from batchinfer.store.session import Transaction

#: Where the work of a batch comes from: a run that somebody or a schedule began, lines that another batch left without
#: an answer, the body of a request, a file of the API.
KINDS = ("run", "schedule", "retry", "lines", "file")
#: Rows at the front of the queue of each model and class that are looked at for tries.
LOOK = 2000


@dataclass(frozen=True)
class BatchRow:
    """A batch as a line of the list. `name`, `cause` and `documents` are of its run."""

    batch: Batch
    kind: str
    name: str | None
    cause: dict[str, Any] | None
    documents: int | None
    schedule_id: UUID | None

    @property
    def is_run(self) -> bool:
        """Whether it is a run over documents."""
        return self.documents is not None

    @property
    def state(self) -> str:
        """What the list says: the API's word, or `paused`."""
        return "paused" if self.batch.status == "in_progress" and "paused_at" in self.batch.times else self.batch.status


_KIND = """CASE WHEN r.schedule_id IS NOT NULL THEN 'schedule' WHEN r.id IS NOT NULL THEN 'run'
                WHEN b.parent_id IS NOT NULL THEN 'retry' WHEN b.options ? 'lines' THEN 'lines' ELSE 'file' END"""
_LIST = f"""
    SELECT b.id, {_KIND} AS kind, r.name, r.cause, r.documents, r.schedule_id
    FROM batches b LEFT JOIN runs r ON r.id = b.id
    WHERE b.tenant_id = :tenant_id {{bounds}} ORDER BY b.id {{way}} LIMIT :limit
"""  # noqa: S608 - made of constants
_BOUNDS = {
    "state": "AND b.status = :state AND (b.status <> 'in_progress' OR b.paused_at IS NULL)",
    "kind": f"AND {_KIND} = :kind",
    "model": "AND b.model = :model",
    "since": "AND b.created_at >= :since",
    "until": "AND b.created_at < :until",
    "before": "AND b.id > :before",
    "after": "AND b.id < :after",
}
_PAUSED = "AND b.status = 'in_progress' AND b.paused_at IS NOT NULL"


def list_rows(
    tx: Transaction,
    tenant_id: UUID,
    *,
    state: str | None = None,
    kind: str | None = None,
    model: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: UUID | None = None,
    after: UUID | None = None,
    limit: int = 50,
) -> tuple[list[BatchRow], bool]:
    """Batches newest first, and whether the list goes on in the direction asked for.

    `since` and `until` bound when they were made, the second one not included. `after` goes on below that id (older
    ones), `before` ends just above it (newer ones).
    """
    upwards = before is not None and after is None
    asked = {
        "state": None if state == "paused" else state, "kind": kind, "since": since,
        "model": None if model is None else clean_text(model),
        "until": until, "after": after, "before": before if upwards else None,
    }  # fmt: skip
    given = {name: value for name, value in asked.items() if value is not None}
    bounds = [_BOUNDS[name] for name in given] + ([_PAUSED] if state == "paused" else [])
    statement = text(_LIST.format(bounds=" ".join(bounds), way="ASC" if upwards else "DESC"))
    found = tx.execute(statement, {"tenant_id": tenant_id, "limit": limit + 1, **given}).all()
    rows, has_more = found[:limit], len(found) > limit
    held = load_batches(tx, [row.id for row in rows])
    shown = [
        BatchRow(held[row.id].batch, row.kind, row.name, row.cause, row.documents, row.schedule_id)
        for row in (rows[::-1] if upwards else rows)
        if row.id in held
    ]
    return shown, has_more


def find_row(tx: Transaction, tenant_id: UUID, batch_id: UUID) -> BatchRow | None:
    """The same for one; None where there is no such batch."""
    statement = text(_LIST.format(bounds="AND b.id = :id", way="DESC"))
    row = tx.execute(statement, {"tenant_id": tenant_id, "id": batch_id, "limit": 1}).first()
    held = load_batches(tx, [batch_id]) if row is not None else {}
    if row is None or batch_id not in held:
        return None
    return BatchRow(held[batch_id].batch, row.kind, row.name, row.cause, row.documents, row.schedule_id)


# Rows are claimed in the order of their ids, so that what was tried before stands in front. The rank as a range and the
# batch as a subquery keep the plan to the index of claims and to one look a job, however much waits.
_RETRYING = text("""
    WITH asked AS (SELECT id, tenant_id, model FROM batches WHERE id = ANY (CAST(:ids AS uuid[]))),
    served AS (
        SELECT model FROM asked WHERE model IS NOT NULL
        UNION SELECT m.name FROM models m WHERE EXISTS (SELECT 1 FROM asked WHERE model IS NULL)),
    tried AS (
        SELECT q.id FROM served s CROSS JOIN generate_series(0, 2) AS g (rank) CROSS JOIN LATERAL (
            SELECT id, attempt, released FROM queue
            WHERE kind = 'infer' AND model = s.model AND rank BETWEEN g.rank AND g.rank AND state = 'queued'
              AND tenant_id = (SELECT tenant_id FROM asked LIMIT 1) AND id > :oldest ORDER BY rank, id LIMIT :look) AS q
        WHERE q.attempt > q.released
        UNION ALL
        SELECT q.id FROM (SELECT id, kind, attempt, released FROM queue WHERE state = 'paused' AND id > :oldest
                          ORDER BY id LIMIT :look) AS q WHERE q.kind = 'infer' AND q.attempt > q.released
        UNION ALL
        SELECT id FROM queue WHERE state = 'running' AND kind = 'infer' AND attempt > released + 1),
    whose AS MATERIALIZED (SELECT (SELECT j.batch_id FROM jobs j WHERE j.id = t.id) AS batch_id FROM tried t)
    SELECT batch_id, count(*) AS number FROM whose
    WHERE batch_id = ANY (CAST(:ids AS uuid[])) GROUP BY batch_id
""")
_RECENT = text("""
    SELECT batch_id, CAST(sum(completed + failed) AS bigint) AS number FROM batch_minutes
    WHERE batch_id = ANY (CAST(:ids AS uuid[])) AND minute > now() - make_interval(mins => :minutes) GROUP BY batch_id
""")
_MINUTES = text("""
    SELECT minute, completed, failed FROM batch_minutes
    WHERE batch_id = :id AND minute <= :until AND minute > :until - make_interval(mins => :count) ORDER BY minute
""")
_OF_MODEL = text("""
    SELECT CAST(coalesce(sum(succeeded - reused), 0) AS bigint) AS jobs, count(DISTINCT minute) AS minutes,
           (SELECT CAST(greatest(coalesce(sum(jobs), 0), 0) AS bigint) FROM backlog WHERE tenant_id = :tenant_id)
           AS waiting
    FROM minutes
    WHERE tenant_id = :tenant_id AND model = :model AND minute > now() - interval '1 day' AND succeeded > reused
""")


def count_retrying(tx: Transaction, batch_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Of batches of one tenant, how many lines failed a try and wait for another, or are in it. Those that are deeper
    in the queue than LOOK rows are not counted."""
    if not batch_ids:
        return {}
    rows = tx.execute(_RETRYING, {"ids": list(batch_ids), "oldest": min(batch_ids), "look": LOOK})
    return {row.batch_id: row.number for row in rows}


def sum_recent(tx: Transaction, batch_ids: Sequence[UUID], minutes: int) -> dict[UUID, int]:
    """How many lines of batches ended in the last so many minutes."""
    rows = tx.execute(_RECENT, {"ids": list(batch_ids), "minutes": minutes}) if batch_ids else ()
    return {row.batch_id: row.number for row in rows}


def list_minutes(tx: Transaction, batch_id: UUID, *, until: datetime, count: int) -> list[Minute]:
    """What ended of a batch in each of `count` minutes up to an aware moment; those without anything are left out."""
    rows = tx.execute(_MINUTES, {"id": batch_id, "until": until, "count": count})
    none = dict.fromkeys(
        ("submitted", "cancelled", "expired", "quarantined", "retried", "lost", "prompt_tokens", "completion_tokens",
         "images"), 0,
    )  # fmt: skip
    return [Minute(minute=row.minute, succeeded=row.completed, failed=row.failed, **none) for row in rows]


def measure_model(tx: Transaction, tenant_id: UUID, model: str) -> tuple[int, int, int]:
    """(jobs, minutes, waiting): a tenant's jobs of a model that succeeded in the last day, the minutes in which they
    did, and all of its jobs that wait or run now."""
    row = tx.execute(_OF_MODEL, {"tenant_id": tenant_id, "model": model}).one()
    return row.jobs, row.minutes, row.waiting
