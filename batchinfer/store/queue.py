"""The hot table: what waits and what is held. Rows come with a job or document and go when its work ends.

Whoever needs several rows takes them in the order of their ids, so that nobody waits in a circle; a claim never waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.jobs import JobClass
from batchinfer.store.claims import Claim
from batchinfer.store.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction

#: A claim looks at this many rows for each that it may take, so that workers that look at once find different ones.
_WINDOW = 4


@dataclass(frozen=True)
class Entry:
    """A row to be queued; `id` is the job's, or for kind render the document's."""

    id: UUID
    kind: str
    tenant_id: UUID
    model: str
    job_class: JobClass
    expires_at: datetime | None = None


_ENQUEUE = text("""
    INSERT INTO queue (id, kind, subject_id, tenant_id, model, class, rank, expires_at, schema_version)
    SELECT id, kind, id, tenant_id, model, class, rank, expires_at, :version
    FROM unnest(CAST(:ids AS uuid[]), CAST(:kinds AS text[]), CAST(:tenants AS uuid[]), CAST(:models AS text[]),
        CAST(:classes AS text[]), CAST(:ranks AS smallint[]), CAST(:expiries AS timestamptz[]))
        AS entry (id, kind, tenant_id, model, class, rank, expires_at)
""")


def enqueue(tx: Transaction, entries: Sequence[Entry]) -> None:
    """Make work ready, at once."""
    if not entries:
        return
    tx.execute(
        _ENQUEUE,
        {
            "ids": [entry.id for entry in entries],
            "kinds": [entry.kind for entry in entries],
            "tenants": [entry.tenant_id for entry in entries],
            "models": [entry.model for entry in entries],
            "classes": [entry.job_class.value for entry in entries],
            "ranks": [entry.job_class.rank for entry in entries],
            "expiries": [entry.expires_at for entry in entries],
            "version": SCHEMA_VERSION,
        },
    )


# A lane is a kind, model and tenant with something ready. Lanes are found by stepping through the index, one probe
# each; from each lane come its first rows; those take turns between tenants within a rank. The rows are then locked,
# passing over locked ones. `alive` holds the lease against its reaper until the claim is committed.
_CLAIM = """
    WITH RECURSIVE lanes AS (
        SELECT wanted.kind, first.model, first.tenant_id
        FROM unnest(CAST(:kinds AS text[])) AS wanted (kind) CROSS JOIN LATERAL (
            SELECT q.model, q.tenant_id FROM queue q
            WHERE q.state = 'queued' AND q.kind = wanted.kind {of_model}
            ORDER BY q.model, q.tenant_id LIMIT 1) AS first
        UNION ALL
        SELECT lane.kind, next.model, next.tenant_id
        FROM lanes AS lane CROSS JOIN LATERAL (
            SELECT q.model, q.tenant_id FROM queue q
            WHERE q.state = 'queued' AND q.kind = lane.kind AND {beyond}
            ORDER BY q.model, q.tenant_id LIMIT 1) AS next
    ),
    candidates AS (
        SELECT head.id, head.rank,
               row_number() OVER (PARTITION BY head.rank, head.tenant_id ORDER BY head.id) AS turn
        FROM lanes AS lane CROSS JOIN LATERAL (
            SELECT q.id, q.rank, q.tenant_id FROM queue q
            WHERE q.state = 'queued' AND q.kind = lane.kind AND q.model = lane.model
              AND q.tenant_id = lane.tenant_id AND q.available_at <= now()
              AND (q.expires_at IS NULL OR q.expires_at > now())
              AND q.schema_version <= :version AND q.id <> ALL (CAST(:excluded AS uuid[]))
            ORDER BY q.rank, q.id
            LIMIT (SELECT greatest(ceil(CAST(:window AS float) / count(*)), 8) FROM lanes)) AS head
        ORDER BY 2, 3, 1 LIMIT :window
    ),
    alive AS MATERIALIZED (SELECT id FROM leases WHERE id = :lease_id AND NOT dead FOR SHARE),
    picked AS (
        SELECT q.id FROM candidates c JOIN queue q ON q.id = c.id
        WHERE q.state = 'queued' AND q.available_at <= now() AND EXISTS (SELECT 1 FROM alive)
        ORDER BY c.rank, c.turn, c.id LIMIT :limit FOR UPDATE OF q SKIP LOCKED
    ),
    taken AS (
        UPDATE queue q SET state = 'running', attempt = q.attempt + 1, lease_id = :lease_id, leased_at = now()
        FROM picked WHERE q.id = picked.id RETURNING q.*
    )
    SELECT t.id, t.kind, t.subject_id, t.tenant_id, t.model, t.class AS job_class, t.attempt, t.crashes, t.released,
           t.schema_version, t.expires_at, t.created_at, t.lease_id, t.leased_at
    FROM taken t JOIN candidates c ON c.id = t.id ORDER BY c.rank, c.turn, c.id
"""
_CLAIM_ANY = text(_CLAIM.format(of_model="", beyond="(q.model, q.tenant_id) > (lane.model, lane.tenant_id)"))
# Both columns by themselves: beside `model =`, a comparison of the pair would begin at the model's first row.
_CLAIM_MODEL = text(
    _CLAIM.format(of_model="AND q.model = :model", beyond="q.model = :model AND q.tenant_id > lane.tenant_id")
)


def claim(
    tx: Transaction,
    *,
    lease_id: UUID,
    kinds: Sequence[str],
    model: str | None,
    limit: int,
    exclude_ids: Collection[UUID] = (),
) -> list[Claim]:
    """Hold up to `limit` rows that are due: by rank, then in turns between tenants, then oldest first.

    Nothing for a dead lease. Never a row that another transaction has locked, one whose time has passed, or one of a
    newer schema. `model` None claims for all models. The claim may be committed relaxed: a lost one harms nobody.
    """
    values: dict[str, Any] = {
        "lease_id": lease_id,
        "kinds": list(kinds),
        "limit": limit,
        "window": limit * _WINDOW,
        "excluded": list(exclude_ids),
        "version": SCHEMA_VERSION,
    }
    statement = _CLAIM_ANY if model is None else _CLAIM_MODEL
    rows = tx.execute(statement, values if model is None else values | {"model": model})
    return [Claim(**{**row._mapping, "job_class": JobClass(row.job_class)}) for row in rows]


_OWNED = text("SELECT id, attempt FROM queue WHERE state = 'running' AND lease_id = :lease_id")


def owned(tx: Transaction, lease_id: UUID) -> frozenset[tuple[UUID, int]]:
    """The (id, attempt) of each row that the lease holds."""
    return frozenset((row.id, row.attempt) for row in tx.execute(_OWNED, {"lease_id": lease_id}))


_LOCK = text("SELECT id FROM queue WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE")


def lock(tx: Transaction, ids: Collection[UUID]) -> None:
    """Take rows in the order of their ids, for a transaction that then changes them with several statements."""
    tx.execute(_LOCK, {"ids": list(ids)})
