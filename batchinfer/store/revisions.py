"""Revisions of models: files under one hash, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.store.clean import as_jsonb, clean_text

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Revision:
    """A revision of a model; `state` is registered, fetching, fetched, verified or failed."""

    id: UUID
    model: str
    revision: str
    source: dict[str, Any]
    path: str
    state: str
    files: list[dict[str, Any]]
    size_bytes: int
    fetched_bytes: int
    facts: dict[str, Any]
    error: dict[str, Any] | None
    created_at: datetime
    fetched_at: datetime | None
    verified_at: datetime | None
    pruned_at: datetime | None
    #: While it is fetched, or its files are read again: `{"bytes_per_s", "file"}`.
    progress: dict[str, Any] | None = None
    checked_at: datetime | None = None


_COLUMNS = """
    v.id, m.name AS model, v.revision, v.source, v.path, v.state, v.files, v.size_bytes, v.fetched_bytes, v.facts,
    v.error, v.created_at, v.fetched_at, v.verified_at, v.pruned_at, v.progress, v.checked_at
    FROM model_revisions v JOIN models m ON m.id = v.model_id
"""
_LIST = text(f"SELECT {_COLUMNS} WHERE m.name = :model ORDER BY v.created_at DESC, v.id DESC")
_FIND = text(f"SELECT {_COLUMNS} WHERE m.name = :model AND v.revision = :revision")
_GET = text(f"SELECT {_COLUMNS} WHERE v.id = :id")
_SAVE = text("""
    INSERT INTO model_revisions (id, tenant_id, model_id, revision, source, path, state, facts, fetched_at)
    SELECT :id, :tenant_id, id, :revision, :source, :path, :state, :facts,
        CASE WHEN :state = 'fetched' THEN now() END
    FROM models WHERE name = :model
    ON CONFLICT (model_id, revision) DO UPDATE SET source = excluded.source,
        path = coalesce(nullif(excluded.path, ''), model_revisions.path), facts = excluded.facts,
        state = CASE WHEN model_revisions.state IN ('registered', 'failed') THEN excluded.state
                     ELSE model_revisions.state END,
        pruned_at = NULL
    RETURNING id
""")


def list_revisions(tx: Transaction, model: str) -> list[Revision]:
    """The revisions of a model, newest first."""
    return [Revision(**row._mapping) for row in tx.execute(_LIST, {"model": clean_text(model)})]


def find_revision(tx: Transaction, model: str, revision: str) -> Revision | None:
    """One revision of a model, or None."""
    row = tx.execute(_FIND, {"model": clean_text(model), "revision": clean_text(revision)}).first()
    return Revision(**row._mapping) if row else None


def get_revision(tx: Transaction, revision_id: UUID) -> Revision | None:
    """The revision with this id, or None."""
    row = tx.execute(_GET, {"id": revision_id}).first()
    return Revision(**row._mapping) if row else None


def save_revision(
    tx: Transaction,
    model: str,
    revision: str,
    *,
    source: dict[str, Any],
    path: str = "",
    state: str = "registered",
    facts: dict[str, Any] | None = None,
) -> UUID | None:
    """Make a revision known, or renew what is known of it. None where there is no such model."""
    values = {"model": clean_text(model), "revision": revision, "path": path, "state": state}
    more = {"id": new_id(), "tenant_id": DEFAULT_TENANT, "source": as_jsonb(source), "facts": as_jsonb(facts or {})}
    found: UUID | None = tx.execute(_SAVE, {**values, **more}).scalar_one_or_none()
    return found
