"""The hot table: what waits and what is held. Rows come with a job or document and go when its work ends.

Whoever needs several rows takes them in the order of their ids, so that nobody waits in a circle; a claim never waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.jobs import JobClass
from batchinfer.store.changes import name_waiting, tell_jobs
from batchinfer.store.claiming import CLAIM_ANY, CLAIM_FIELDS, CLAIM_MODEL, CLAIM_URGENT, PLAN_ONCE, count_window
from batchinfer.store.claims import Claim
from batchinfer.store.tables import SCHEMA_VERSION
from batchinfer.store.turns import Taken, Turns

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Entry:
    """A row to be queued; `id` is the job's, or for kind render the document's."""

    id: UUID
    kind: str
    tenant_id: UUID
    model: str
    job_class: JobClass
    expires_at: datetime | None = None
    #: Above 0 it runs apart, as if so many workers had been lost under it.
    suspected: int = 0
    #: Kept back with its batch: no claim takes it until the batch is resumed.
    paused: bool = False


_ENQUEUE = text("""
    INSERT INTO queue
        (id, kind, subject_id, tenant_id, model, class, rank, expires_at, suspected, state, schema_version)
    SELECT id, kind, id, tenant_id, model, class, rank, expires_at, suspected, state, :version
    FROM unnest(CAST(:ids AS uuid[]), CAST(:kinds AS text[]), CAST(:tenants AS uuid[]), CAST(:models AS text[]),
        CAST(:classes AS text[]), CAST(:ranks AS smallint[]), CAST(:expiries AS timestamptz[]),
        CAST(:suspected AS int[]), CAST(:states AS text[]))
        AS entry (id, kind, tenant_id, model, class, rank, expires_at, suspected, state)
""")


def enqueue(tx: Transaction, entries: Sequence[Entry]) -> None:
    """Make work ready, at once; or keep it back."""
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
            "suspected": [entry.suspected for entry in entries],
            "states": ["paused" if entry.paused else "queued" for entry in entries],
            "version": SCHEMA_VERSION,
        },
    )
    states = [(entry, name_waiting(entry.kind)) for entry in entries]
    tell_jobs(tx, [(entry.tenant_id, state, entry.id) for entry, state in states if state])


def claim(
    tx: Transaction,
    *,
    lease_id: UUID,
    kinds: Sequence[str],
    model: str | None,
    limit: int,
    exclude_ids: Collection[UUID] = (),
    turns: Turns | None = None,
    urgent_only: bool = False,
) -> list[Claim]:
    """Hold up to `limit` rows that are due: by class, then in turns between tenants, then oldest first.

    `turns` is the claimer's own and goes on with what is taken. Nothing for a dead lease, nothing that is paused. Never
    a row that another transaction has locked, one whose time has passed, or one of a newer schema. `model` None claims
    for all models; `urgent_only` claims interactive rows alone, of a named model, and costs next to nothing where none
    is due. The claim may be committed relaxed: a lost one harms nobody.
    """
    if urgent_only and model is None:
        raise ValueError("a claim of interactive rows alone names a model")
    turns = turns or Turns()
    values: dict[str, Any] = {
        "lease_id": lease_id,
        "kinds": list(kinds),
        "limit": limit,
        "window": count_window(limit),
        "excluded": list(exclude_ids),
        "version": SCHEMA_VERSION,
        **turns.values(limit),
    }
    tx.execute(PLAN_ONCE)
    statement = CLAIM_ANY if model is None else CLAIM_URGENT if urgent_only else CLAIM_MODEL
    rows = tx.execute(statement, values if model is None else values | {"model": model}).all()
    turns.advance([Taken(*row[_WIDTH:]) for row in rows], limit)
    return [_as_claim(row) for row in rows]


# By position: by name, the rows would be a fifth of what a claim costs its process.
_WIDTH, _CLASS = len(CLAIM_FIELDS), CLAIM_FIELDS.index("job_class")


def _as_claim(row: Row[Any]) -> Claim:
    fields = [*row[:_CLASS], JobClass(row[_CLASS]), *row[_CLASS + 1 : _WIDTH]]
    return Claim(*fields)


_OWNED = text("SELECT id, attempt FROM queue WHERE state = 'running' AND lease_id = :lease_id")


def owned(tx: Transaction, lease_id: UUID) -> frozenset[tuple[UUID, int]]:
    """The (id, attempt) of each row that the lease holds."""
    return frozenset((row.id, row.attempt) for row in tx.execute(_OWNED, {"lease_id": lease_id}))


_LOCK = text("SELECT id FROM queue WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE")


def lock(tx: Transaction, ids: Collection[UUID]) -> None:
    """Take rows in the order of their ids, for a transaction that then changes them with several statements."""
    tx.execute(_LOCK, {"ids": list(ids)})
