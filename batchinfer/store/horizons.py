"""Up to where rows are over: by the setting, or by what a tenant has of its own. Ids tell when a thing was made."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import TextClause, text

from batchinfer.store.partitions import first_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.store.session import Transaction

#: Nothing is older.
FOR_EVER = UUID(int=0)
_OVER = re.compile(r"OVER\((\w+)\.(\w+)\)")
_IS_OVER = (
    r"\1.\2 < :latest AND "
    r"\1.\2 < coalesce(CAST(CAST(:own AS jsonb) ->> CAST(\1.tenant_id AS text) AS uuid), :before)"
)
_TODAY = text("SELECT CAST(timezone('UTC', now()) AS date)")
_OF_TENANT = text("SELECT keep_days FROM tenants WHERE id = :id")
_OWN = text("SELECT id, keep_days FROM tenants WHERE keep_days IS NOT NULL")


@dataclass(frozen=True)
class Horizons:
    """The smallest id that is kept: of a tenant with days of its own, and (`before`) of every other one."""

    before: UUID
    own: Mapping[UUID, UUID] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """For a statement of `with_horizons`."""
        own = {str(tenant_id): str(first) for tenant_id, first in self.own.items()}
        return {"before": self.before, "own": json.dumps(own), "latest": max(self.before, *self.own.values(), FOR_EVER)}

    def of(self, tenant_id: UUID) -> UUID:
        """That of one tenant."""
        return self.own.get(tenant_id, self.before)

    def list_keepers(self, day: date) -> list[UUID]:
        """Tenants that keep a day longer than it is kept for the others."""
        return [tenant_id for tenant_id, first in self.own.items() if first <= first_id(day)]


def with_horizons(statement: str) -> TextClause:
    """A statement whose `OVER(alias.column)` says: this row, of its `tenant_id`, is older than what is kept."""
    return text(_OVER.sub(_IS_OVER, statement))


def find_keep_days(tx: Transaction, tenant_id: UUID, keep_days: int) -> int:
    """Days that a tenant's jobs are kept, 0 for ever: its own, else the setting's."""
    own: int | None = tx.execute(_OF_TENANT, {"id": tenant_id}).scalar()
    return keep_days if own is None else own


def find_horizons(tx: Transaction, keep_days: int) -> Horizons:
    """How it stands today, with the setting's days; 0, of the setting or of a tenant, keeps for ever."""
    today: date = tx.execute(_TODAY).scalar_one()

    def first(days: int) -> UUID:
        return first_id(today - timedelta(days=days)) if days else FOR_EVER

    return Horizons(first(keep_days), {row.id: first(row.keep_days) for row in tx.execute(_OWN)})
