"""The lines of a batch: listed, grouped by why they failed, and found again for another try."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.domain.batch_items import Cause, Item
from batchinfer.domain.jobs import JobState
from batchinfer.store.clean import clean_text
from batchinfer.store.endings import TRIES
from batchinfer.store.jobs import STATE, state_condition

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.store.session import Transaction

#: The code of what ended without an answer, in the words of the error file.
CODE = """CASE j.final_state WHEN 'expired' THEN 'batch_expired' WHEN 'cancelled' THEN 'batch_cancelled'
                ELSE coalesce(j.error ->> 'code', 'failed') END"""
_UNANSWERED = "j.final_state IN ('failed', 'quarantined', 'expired', 'cancelled') AND j.deleted_at IS NULL"
_ITEMS = f"""
    SELECT j.id AS job_id, j.line, j.custom_id, {STATE} AS state, j.attempts + coalesce({TRIES}, 0) AS attempts,
           j.created_at, j.finished_at, j.error
    FROM jobs j LEFT JOIN queue q ON q.id = j.id
    WHERE j.batch_id = :batch_id AND j.line > :after AND {{conditions}} ORDER BY j.line LIMIT :limit
"""  # noqa: S608 - made of constants
_LINE = text("SELECT line FROM jobs WHERE id = :job_id AND batch_id = :batch_id")
_CAUSES = text(f"""
    WITH causes AS (
        SELECT {CODE} AS code, coalesce(j.error ->> 'type', 'server_error') AS error_type, j.final_state AS state,
               count(*) AS number, min(j.line) AS line
        FROM jobs j WHERE j.batch_id = :batch_id AND {_UNANSWERED} GROUP BY 1, 2, 3)
    SELECT c.*, e.custom_id, coalesce(e.error ->> 'message', '') AS message
    FROM causes c JOIN jobs e ON e.batch_id = :batch_id AND e.line = c.line
    ORDER BY c.number DESC, c.line
""")  # noqa: S608 - made of constants


def list_items(
    tx: Transaction,
    batch_id: UUID,
    *,
    state: JobState | None = None,
    code: str | None = None,
    custom_id: str | None = None,
    after: int = 0,
    limit: int = 20,
) -> list[Item]:
    """The lines of a batch that are jobs, in the order of the file, behind line `after`."""
    conditions, values = ["j.deleted_at IS NULL"], {"batch_id": batch_id, "after": after, "limit": limit}
    if state is not None:
        conditions.append(state_condition(state))
        values["state"] = state
    if code is not None:
        conditions.append(f"{_UNANSWERED} AND {CODE} = :code")
        values["code"] = clean_text(code)
    if custom_id is not None:
        conditions.append("j.custom_id = :custom_id")
        values["custom_id"] = clean_text(custom_id)
    rows = tx.execute(text(_ITEMS.format(conditions=" AND ".join(conditions))), values)
    return [Item(**{**row._mapping, "state": JobState(row.state)}) for row in rows]


def find_line(tx: Transaction, batch_id: UUID, job_id: UUID) -> int | None:
    """The line of a job in its batch's file; None where it is none of it."""
    line: int | None = tx.execute(_LINE, {"batch_id": batch_id, "job_id": job_id}).scalar_one_or_none()
    return line


def list_causes(tx: Transaction, batch_id: UUID) -> list[Cause]:
    """Why lines have no answer, the most frequent first."""
    return [
        Cause(row.code, row.error_type, JobState(row.state), row.number, row.line, row.custom_id, row.message)
        for row in tx.execute(_CAUSES, {"batch_id": batch_id})
    ]


_OF_STATES = f"""
    FROM jobs j WHERE j.batch_id = :batch_id AND j.final_state = ANY (CAST(:states AS text[])) AND j.deleted_at IS NULL
      AND (cardinality(CAST(:names AS text[])) = 0 OR j.custom_id = ANY (CAST(:names AS text[])))
      AND (cardinality(CAST(:codes AS text[])) = 0 OR {CODE} = ANY (CAST(:codes AS text[])))
"""
_NUMBERS, _COUNT = text(f"SELECT j.line {_OF_STATES}"), text(f"SELECT count(*) {_OF_STATES}")
_TAKEN = text("SELECT DISTINCT line FROM jobs WHERE batch_id = ANY (CAST(:ids AS uuid[]))")
_CHAIN = text("""
    WITH RECURSIVE chain AS (
        SELECT id, parent_id, options, created_at, 0 AS depth FROM batches WHERE id = :id
        UNION ALL
        SELECT b.id, b.parent_id, b.options, b.created_at, c.depth + 1 FROM chain c JOIN batches b ON b.id = c.parent_id
        WHERE c.options -> 'retry' ->> 'merge' = 'true')
    SELECT id FROM chain ORDER BY depth
""")


def count_ended(
    tx: Transaction, batch_id: UUID, states: Sequence[str], names: Sequence[str], codes: Sequence[str] = ()
) -> int:
    """How many lines ended in these states; of these custom ids and for these codes, where any are given."""
    number: int = tx.execute(_COUNT, _bind(batch_id, states, names, codes)).scalar_one()
    return number


def list_ended(
    tx: Transaction, batch_id: UUID, states: Sequence[str], names: Sequence[str], codes: Sequence[str] = ()
) -> frozenset[int]:
    """Their numbers in the file."""
    return frozenset(tx.execute(_NUMBERS, _bind(batch_id, states, names, codes)).scalars())


def _bind(batch_id: UUID, states: Sequence[str], names: Sequence[str], codes: Sequence[str]) -> dict[str, object]:
    return {
        "batch_id": batch_id, "states": list(states), "names": [clean_text(name) for name in names],
        "codes": [clean_text(code) for code in codes],
    }  # fmt: skip


def list_taken(tx: Transaction, batch_ids: Sequence[UUID]) -> frozenset[int]:
    """The numbers of the lines that are jobs of any of these batches."""
    return frozenset(tx.execute(_TAKEN, {"ids": list(batch_ids)}).scalars())


def list_chain(tx: Transaction, batch_id: UUID) -> list[UUID]:
    """A batch, and those whose answers it takes over: what it was retried from, and so on; the newest first."""
    return list(tx.execute(_CHAIN, {"id": batch_id}).scalars())
