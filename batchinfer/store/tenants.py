"""Tenants and their limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.store.clean import clean_text

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Tenant:
    """Whose jobs, keys and blobs they are."""

    id: UUID
    name: str
    #: Most jobs that may wait or run; None takes the setting.
    max_jobs: int | None
    #: Rows that it gets in each of its turns.
    weight: int
    #: Days that its jobs are kept, 0 for ever; None takes the setting.
    keep_days: int | None = None


_FIND = text("SELECT id, name, max_jobs, weight, keep_days FROM tenants WHERE id = :id")
_FIND_BY_NAME = text("SELECT id, name, max_jobs, weight, keep_days FROM tenants WHERE name = :name")
_LIST = text("""
    SELECT id, name, max_jobs, weight, keep_days FROM tenants WHERE CAST(:after AS uuid) IS NULL OR id < :after
    ORDER BY id DESC LIMIT :limit
""")
_INSERT = text("""
    INSERT INTO tenants (id, name, max_jobs, weight, keep_days) VALUES (:id, :name, :max_jobs, :weight, :keep_days)
    ON CONFLICT DO NOTHING RETURNING id
""")
_SET_LIMITS = text("UPDATE tenants SET max_jobs = :max_jobs, weight = :weight WHERE id = :id")
_SET_DAYS = text("UPDATE tenants SET keep_days = :keep_days WHERE id = :id")
_NAMES = text("SELECT id, name FROM tenants WHERE id = ANY (CAST(:ids AS uuid[]))")


def find_tenant(tx: Transaction, tenant_id: UUID) -> Tenant | None:
    """The tenant, or None."""
    row = tx.execute(_FIND, {"id": tenant_id}).first()
    return Tenant(**row._mapping) if row else None


def find_tenant_by_name(tx: Transaction, name: str) -> Tenant | None:
    """The tenant of this name, or None."""
    row = tx.execute(_FIND_BY_NAME, {"name": clean_text(name)}).first()
    return Tenant(**row._mapping) if row else None


def list_tenants(tx: Transaction, *, after: UUID | None, limit: int) -> list[Tenant]:
    """Tenants, newest first, below the id `after`."""
    return [Tenant(**row._mapping) for row in tx.execute(_LIST, {"after": after, "limit": limit})]


def insert_tenant(tx: Transaction, tenant: Tenant) -> bool:
    """Store a tenant. False where the name is taken."""
    return tx.execute(_INSERT, vars(tenant)).first() is not None


def set_limits(tx: Transaction, tenant_id: UUID, *, max_jobs: int | None, weight: int) -> None:
    """Give a tenant its limits."""
    tx.execute(_SET_LIMITS, {"id": tenant_id, "max_jobs": max_jobs, "weight": weight})


def set_keep_days(tx: Transaction, tenant_id: UUID, keep_days: int | None) -> None:
    """Say how long a tenant's jobs are kept; None: as the setting says."""
    tx.execute(_SET_DAYS, {"id": tenant_id, "keep_days": keep_days})


def list_names(tx: Transaction, ids: list[UUID]) -> dict[UUID, str]:
    """The names of tenants."""
    return {row.id: row.name for row in tx.execute(_NAMES, {"ids": ids})}
