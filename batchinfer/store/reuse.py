"""Answers that are kept to serve again: which job of a tenant has the answer to a key, of a model's revision.

A row points to a result and is good for as long as that is there. What a job takes over is copied, with no tokens in
its usage: the first one has paid for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

from batchinfer.store.changes import tell_jobs
from batchinfer.store.clean import as_jsonb
from batchinfer.store.endings import NOT_DELETED, UNUSED
from batchinfer.store.horizons import with_horizons
from batchinfer.store.telling import tell_of_reused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.store.horizons import Horizons
    from batchinfer.store.session import Transaction

#: Stands for the lease of what no worker did.
NOBODY = UUID(int=0)
_FIND = text(f"""
    SELECT w.key, a.job_id FROM unnest(CAST(:keys AS text[]), CAST(:models AS text[])) AS w (key, model)
    JOIN models m ON m.name = w.model
    JOIN answers a ON a.tenant_id = :tenant_id AND a.key = w.key AND a.revision = m.revision
    JOIN results r ON r.job_id = a.job_id AND r.tenant_id = a.tenant_id AND {NOT_DELETED}
""")  # noqa: S608 - made of constants
# One statement is one snapshot: a job ends if and only if it gets its result.
_END = text(f"""
    WITH source AS (
        SELECT g.id, r.* FROM unnest(CAST(:ids AS uuid[]), CAST(:sources AS uuid[])) AS g (id, source)
        JOIN results r ON r.job_id = g.source AND r.tenant_id = :tenant_id AND {NOT_DELETED}),
    ended AS (
        UPDATE jobs j SET final_state = 'succeeded', finished_at = now() FROM source s
        WHERE j.id = s.id AND j.tenant_id = :tenant_id AND j.final_state IS NULL RETURNING j.id)
    INSERT INTO results (job_id, tenant_id, attempt, lease_id, text, finish_reason, usage, model, revision, engine,
        versions, logprobs, reused_from)
    SELECT s.id, s.tenant_id, 0, :nobody, s.text, s.finish_reason, :usage, s.model, s.revision, s.engine, s.versions,
           s.logprobs, coalesce(s.reused_from, s.job_id)
    FROM source s JOIN ended e ON e.id = s.id
    RETURNING job_id
""")  # noqa: S608 - made of constants
_FORGET = with_horizons("""
    DELETE FROM answers WHERE (tenant_id, key, revision) IN (
        SELECT tenant_id, key, revision FROM answers a WHERE OVER(a.job_id) ORDER BY job_id LIMIT :limit
        FOR UPDATE SKIP LOCKED)
""")


def find_answers(tx: Transaction, tenant_id: UUID, models: Mapping[str, str]) -> dict[str, UUID]:
    """For keys (each with its model) the job of this tenant that has the answer of the model's present revision."""
    if not models:
        return {}
    values = {"tenant_id": tenant_id, "keys": list(models), "models": list(models.values())}
    return {row.key: row.job_id for row in tx.execute(_FIND, values)}


def end_with(tx: Transaction, tenant_id: UUID, sources: Mapping[UUID, UUID]) -> frozenset[UUID]:
    """End jobs that this transaction stored, each with the answer of another job. Answers those that really ended: the
    others' answer has gone meanwhile."""
    if not sources:
        return frozenset()
    values = {"tenant_id": tenant_id, "ids": list(sources), "sources": list(sources.values())}
    rows = tx.execute(_END, values | {"nobody": NOBODY, "usage": as_jsonb(UNUSED)})
    ended = frozenset(rows.scalars())
    tell_jobs(tx, [(tenant_id, "succeeded", job_id) for job_id in sources if job_id in ended])
    tell_of_reused(tx, sorted(ended))
    return ended


def forget_dropped(tx: Transaction, *, before: Horizons, limit: int = 100_000) -> int:
    """Drop rows whose job is older than an id, at most `limit`. Answers how many."""
    return tx.execute(_FORGET, {**before.values, "limit": limit}).rowcount
