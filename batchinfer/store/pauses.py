"""What is paused: claims pass over it, what is held goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import new_id
from batchinfer.store.clean import clean_text

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Scope:
    """Rows of a tenant, of a model, of both, or (both None) all."""

    tenant_id: UUID | None = None
    model: str | None = None

    def as_values(self) -> dict[str, Any]:
        """As parameters of a statement."""
        return {"tenant_id": self.tenant_id, "model": None if self.model is None else clean_text(self.model)}


@dataclass(frozen=True)
class Pause:
    """One pause. A row is paused by any pause whose scope it is in."""

    id: UUID
    scope: Scope
    actor: str
    created_at: datetime


_PAUSE = text("""
    INSERT INTO pauses (id, tenant_id, model, actor)
    SELECT :id, CAST(:tenant_id AS uuid), CAST(:model AS text), :actor WHERE NOT EXISTS (
        SELECT 1 FROM pauses WHERE tenant_id IS NOT DISTINCT FROM CAST(:tenant_id AS uuid)
        AND model IS NOT DISTINCT FROM CAST(:model AS text))
    RETURNING id
""")
_RESUME = text("""
    DELETE FROM pauses WHERE tenant_id IS NOT DISTINCT FROM CAST(:tenant_id AS uuid)
    AND model IS NOT DISTINCT FROM CAST(:model AS text) RETURNING id
""")
_LIST = text("""
    SELECT id, tenant_id, model, actor, created_at FROM pauses
    WHERE tenant_id IS NULL OR tenant_id = coalesce(CAST(:tenant_id AS uuid), tenant_id) ORDER BY id LIMIT 1000
""")


def pause(tx: Transaction, scope: Scope, actor: str) -> UUID | None:
    """Pause a scope. None if it was paused; two that pause it at once may both do it, which changes nothing."""
    row = tx.execute(_PAUSE, {"id": new_id(), "actor": actor, **scope.as_values()}).first()
    return row.id if row else None


def resume(tx: Transaction, scope: Scope) -> list[UUID]:
    """End the pauses of exactly this scope. Wider and narrower ones stay."""
    return list(tx.execute(_RESUME, scope.as_values()).scalars())


def list_pauses(tx: Transaction, tenant_id: UUID | None) -> list[Pause]:
    """Every pause that touches a tenant, oldest first; None: every one."""
    rows = tx.execute(_LIST, {"tenant_id": tenant_id})
    return [Pause(row.id, Scope(row.tenant_id, row.model), row.actor, row.created_at) for row in rows]
