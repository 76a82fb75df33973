"""Reads that only the pages about models need: the catalogue as one list, and when replicas changed their state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class CatalogueRow:
    """A model with one of its revisions and what came of its files. `served` is the revision that a launch takes."""

    name: str
    served: str
    revision: str
    #: A word of `domain.registry.RevisionState`.
    state: str
    source: dict[str, Any]
    licence: str | None
    size_bytes: int
    fetched_bytes: int
    progress: dict[str, Any] | None
    error: dict[str, Any] | None
    pruned_at: datetime | None
    #: Of all revisions of the model.
    revisions: int


# What is just being fetched is what somebody looks for; else the revision that is served.
_CATALOGUE = text("""
    SELECT DISTINCT ON (m.name) m.name, m.revision AS served, coalesce(v.revision, m.revision) AS revision,
        coalesce(v.state, 'registered') AS state, coalesce(v.source, '{}') AS source,
        coalesce(v.facts ->> 'licence', m.facts ->> 'licence') AS licence,
        coalesce(nullif(v.size_bytes, 0), CAST(coalesce(v.facts, m.facts) ->> 'weights_bytes' AS bigint), 0)
            AS size_bytes,
        coalesce(v.fetched_bytes, 0) AS fetched_bytes, v.progress, v.error, v.pruned_at,
        count(v.id) OVER (PARTITION BY m.name) AS revisions
    FROM models m LEFT JOIN model_revisions v ON v.model_id = m.id
    ORDER BY m.name, v.state = 'fetching' DESC NULLS LAST, v.revision = m.revision DESC NULLS LAST,
        v.created_at DESC
    LIMIT 500
""")
_MOVES = text("""
    SELECT subject_id, event, created_at FROM events
    WHERE subject_id = ANY (CAST(:ids AS uuid[])) AND subject = 'replica' AND event = ANY (CAST(:states AS text[]))
    ORDER BY id
""")


def list_catalogue(tx: Transaction) -> list[CatalogueRow]:
    """Every model, by name; of its revisions the one that is being fetched, else the one that is served."""
    return [CatalogueRow(**row._mapping) for row in tx.execute(_CATALOGUE)]


def list_moves(
    tx: Transaction, replica_ids: Sequence[UUID], states: Sequence[str]
) -> dict[UUID, list[tuple[str, datetime]]]:
    """When replicas came to these states, oldest first."""
    found: dict[UUID, list[tuple[str, datetime]]] = {}
    if replica_ids:
        for row in tx.execute(_MOVES, {"ids": list(replica_ids), "states": list(states)}):
            found.setdefault(row.subject_id, []).append((row.event, row.created_at))
    return found
