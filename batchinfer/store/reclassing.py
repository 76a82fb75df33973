"""The class of what has not ended, changed in pieces: no lock is held for longer than one of them takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchinfer.domain.jobs import JobClass
    from batchinfer.store.pauses import Scope
    from batchinfer.store.session import Transaction

#: Rows looked at in one piece.
PIECE = 1000

# Looked at by id, so that each row is seen once however many change meanwhile. One that another transaction holds is
# waited for: it is being claimed or ended, which takes a moment.
_RECLASS = text("""
    WITH looked AS (
        SELECT id FROM queue WHERE id > :after AND (:ids_given = false OR id = ANY (CAST(:ids AS uuid[])))
        ORDER BY id LIMIT :piece
    ),
    held AS (
        SELECT q.id, q.kind, q.subject_id, q.tenant_id FROM looked l JOIN queue q ON q.id = l.id
        WHERE q.class <> :class AND q.class = coalesce(CAST(:from_class AS text), q.class)
          AND q.kind IN ('infer', 'prepare', 'render')
          AND (CAST(:tenant_id AS uuid) IS NULL OR q.tenant_id = :tenant_id)
          AND (CAST(:model AS text) IS NULL OR q.model = :model)
        ORDER BY q.id FOR UPDATE OF q
    ),
    changed AS (
        UPDATE queue q SET class = :class, rank = :rank FROM held h WHERE q.id = h.id
        RETURNING q.id, q.kind, q.subject_id, q.tenant_id
    ),
    of_jobs AS (
        UPDATE jobs j SET class = :class FROM changed c WHERE j.id = c.subject_id AND c.kind <> 'render'
    ),
    of_documents AS (
        UPDATE documents d SET class = :class FROM changed c WHERE d.id = c.subject_id AND c.kind = 'render'
    )
    SELECT (SELECT CAST(max(CAST(id AS text)) AS uuid) FROM looked) AS last, (SELECT count(*) FROM looked) AS looked,
           (SELECT coalesce(array_agg(id), '{}') FROM changed) AS ids
""")


@dataclass(frozen=True)
class Piece:
    """What one piece did: the rows changed, and where the next begins; None at the end."""

    changed: list[UUID]
    next_after: UUID | None


def reclass(
    tx: Transaction,
    scope: Scope,
    job_class: JobClass,
    *,
    from_class: JobClass | None = None,
    ids: Sequence[UUID] | None = None,
    after: UUID | None = None,
) -> Piece:
    """Give the next piece of the rows in a scope another class, running ones too: it counts when they come back."""
    values: dict[str, Any] = {
        "class": job_class.value,
        "rank": job_class.rank,
        "from_class": from_class.value if from_class else None,
        "ids_given": ids is not None,
        "ids": list(ids or ()),
        "after": after or UUID(int=0),
        "piece": PIECE,
        **scope.as_values(),
    }
    row = tx.execute(_RECLASS, values).one()
    return Piece(list(row.ids), row.last if row.looked == PIECE else None)
