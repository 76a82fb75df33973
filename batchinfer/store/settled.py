"""Jobs that end in the transaction that stores them, by what was seen of their page: no worker sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.runs import BLANK_ENGINE
from batchinfer.store.changes import tell_jobs
from batchinfer.store.clean import as_jsonb
from batchinfer.store.endings import UNUSED
from batchinfer.store.reuse import NOBODY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from batchinfer.store.session import Transaction

# One statement is one snapshot: a job ends if and only if it gets its result.
_BLANK = text("""
    WITH ended AS (
        UPDATE jobs SET final_state = 'succeeded', finished_at = now()
        WHERE id = ANY (CAST(:ids AS uuid[])) AND tenant_id = :tenant_id AND final_state IS NULL
        RETURNING id, tenant_id, model)
    INSERT INTO results (job_id, tenant_id, attempt, lease_id, text, finish_reason, usage, model, revision, engine)
    SELECT id, tenant_id, 0, :nobody, '', 'stop', :usage, model, :revision, :engine FROM ended
""")
_FAILED = text("""
    UPDATE jobs j SET final_state = 'failed', finished_at = now(), error = g.error
    FROM unnest(CAST(:ids AS uuid[]), CAST(:errors AS jsonb[])) AS g (id, error)
    WHERE j.id = g.id AND j.tenant_id = :tenant_id AND j.final_state IS NULL
""")


def end_blank(tx: Transaction, tenant_id: UUID, ids: Sequence[UUID], *, revision: str) -> None:
    """End jobs that this transaction stored, as succeeded with an empty answer: nothing is on their pages."""
    if not ids:
        return
    values: dict[str, Any] = {"tenant_id": tenant_id, "ids": list(ids), "nobody": NOBODY, "usage": as_jsonb(UNUSED)}
    tx.execute(_BLANK, values | {"revision": revision, "engine": BLANK_ENGINE})
    tell_jobs(tx, [(tenant_id, "succeeded", job_id) for job_id in ids])


def end_failed(tx: Transaction, tenant_id: UUID, errors: Mapping[UUID, dict[str, Any]]) -> None:
    """End jobs that this transaction stored, each with why its page could not be made."""
    if not errors:
        return
    values = {"tenant_id": tenant_id, "ids": list(errors), "errors": [as_jsonb(error) for error in errors.values()]}
    tx.execute(_FAILED, values)
    tell_jobs(tx, [(tenant_id, "failed", job_id) for job_id in errors])
