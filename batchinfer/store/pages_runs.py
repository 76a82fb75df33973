"""Runs as the pages list them: slim rows with their state worked out, filtered, paged by key, and the last of each
schedule. Only the pages read these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.runs import RunState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class RunRow:
    """A run in a list. Times are aware UTC; pages by how they ended, those under way in `pages` alone."""

    id: UUID
    name: str | None
    state: RunState
    created_at: datetime
    instant: datetime | None
    begun_at: datetime | None
    finished_at: datetime | None
    schedule_id: UUID | None
    #: None where the schedule was deleted.
    schedule: str | None
    model: str | None
    cause: dict[str, Any] | None
    documents: int
    skipped: int
    pages: int
    ok: int
    fallback: int
    blank: int
    failed: int
    #: Neither good nor failed: they expired or were cancelled.
    ended: int
    has_report: bool

    @property
    def begun(self) -> bool:
        """Whether it has a batch of its id."""
        return self.begun_at is not None


#: `domain.runs.derive_state` as Postgres works it out; a test holds the two equal.
_STATE = """
    CASE WHEN r.state <> 'running' OR b.id IS NULL THEN r.state
         WHEN b.status = 'completed' AND (b.failed > 0 OR r.failed > 0 OR r.with_errors > 0)
             THEN 'completed_with_errors'
         WHEN b.status = 'in_progress' AND b.paused_at IS NOT NULL THEN 'paused'
         WHEN b.status IN ('validating', 'in_progress', 'cancelling') THEN 'running'
         ELSE b.status END
"""
_COLUMNS = f"""
    r.id, r.name, {_STATE} AS state, r.created_at, r.instant, r.begun_at, r.finished_at, r.schedule_id,
    s.name AS schedule, r.spec #>> '{{pipeline,model}}' AS model, r.cause, r.documents, r.skipped,
    coalesce(b.total, 0) AS pages, coalesce(b.completed, 0) - r.pages_blank - r.pages_fallback AS ok,
    r.pages_fallback AS fallback, r.pages_blank AS blank, coalesce(b.failed, 0) AS failed,
    coalesce(b.expired + b.cancelled, 0) AS ended, jsonb_exists(r.files, 'report.json') AS has_report
"""
_BESIDE = """
    LEFT JOIN batches b ON b.id = r.id
    LEFT JOIN schedules s ON s.id = r.schedule_id AND s.tenant_id = r.tenant_id AND s.deleted_at IS NULL
"""
# Instants and runs by hand lie apart in the index over schedule and instant: the newest of both, then of those.
_NEWEST = text(f"""
    SELECT {_COLUMNS} FROM unnest(CAST(:ids AS uuid[])) AS wanted (id)
    CROSS JOIN LATERAL (
        SELECT * FROM (
            (SELECT * FROM runs WHERE schedule_id = wanted.id AND instant IS NOT NULL ORDER BY instant DESC LIMIT :each)
            UNION ALL
            (SELECT * FROM runs WHERE schedule_id = wanted.id AND instant IS NULL ORDER BY id DESC LIMIT :each)
        ) AS both_kinds ORDER BY id DESC LIMIT :each) AS r
    {_BESIDE} WHERE r.tenant_id = :tenant_id ORDER BY r.schedule_id, r.id DESC
""")  # noqa: S608 - made of constants


def list_newest(
    tx: Transaction, tenant_id: UUID, schedule_ids: Sequence[UUID], *, each: int
) -> dict[UUID, list[RunRow]]:
    """The newest runs of each of these schedules of a tenant, newest first."""
    found: dict[UUID, list[RunRow]] = {schedule_id: [] for schedule_id in schedule_ids}
    values = {"ids": list(schedule_ids), "tenant_id": tenant_id, "each": each}
    for row in tx.execute(_NEWEST, values):
        found[row.schedule_id].append(_as_row(row))
    return found


def list_rows(
    tx: Transaction,
    tenant_id: UUID,
    *,
    schedule_id: UUID | None = None,
    state: RunState | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after: UUID | None = None,
    limit: int = 50,
) -> tuple[list[RunRow], bool]:
    """Runs of a tenant, newest first, below the id `after`, made from `since` on and before `until`; and whether there
    are more."""
    given: tuple[tuple[str, str, Any], ...] = (
        ("schedule_id", "r.schedule_id = :schedule_id", schedule_id),
        ("state", f"{_STATE} = :state", state and state.value),
        ("since", "r.created_at >= :since", since),
        ("until", "r.created_at < :until", until),
        ("after", "r.id < :after", after),
    )
    bounds = "".join(f" AND {condition}" for _, condition, value in given if value is not None)
    values = {name: value for name, _, value in given if value is not None}
    statement = text(f"""
        SELECT {_COLUMNS} FROM runs r {_BESIDE} WHERE r.tenant_id = :tenant_id {bounds} ORDER BY r.id DESC LIMIT :limit
    """)  # noqa: S608 - made of constants
    found = [_as_row(row) for row in tx.execute(statement, {"tenant_id": tenant_id, "limit": limit + 1, **values})]
    return found[:limit], len(found) > limit


def _as_row(row: Row[Any]) -> RunRow:
    return RunRow(**{**row._mapping, "state": RunState(row.state)})
