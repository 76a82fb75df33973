"""The audit log: one row an act of an administrator, in the transaction of the act. Rows are never changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import new_id
from batchinfer.store.clean import as_jsonb, clean_text

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Act:
    """What somebody did: `action` as noun.verb, to `subject` as people see its id or name.

    `tenant_id` is the tenant that was acted on, `actor_tenant_id` the one whose key acted; `key_id` None is the
    command line or the installation itself.
    """

    tenant_id: UUID
    actor_tenant_id: UUID
    actor: str
    key_id: UUID | None
    action: str
    subject: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredAct:
    """An act as it was written; `tenant` is the name of the tenant that was acted on."""

    id: UUID
    act: Act
    tenant: str
    created_at: datetime


_WRITE = text("""
    INSERT INTO audit (id, tenant_id, actor_tenant_id, actor, key_id, action, subject, data)
    VALUES (:id, :tenant_id, :actor_tenant_id, :actor, :key_id, :action, :subject, :data)
""")
_LIST = text("""
    SELECT a.id, a.tenant_id, a.actor_tenant_id, a.actor, a.key_id, a.action, a.subject, a.data, a.created_at,
           coalesce(t.name, '') AS tenant
    FROM audit a LEFT JOIN tenants t ON t.id = a.tenant_id
    WHERE (CAST(:tenant_id AS uuid) IS NULL OR a.tenant_id = :tenant_id)
      AND (CAST(:after AS uuid) IS NULL OR a.id < :after)
      AND (CAST(:action AS text) IS NULL OR a.action = :action OR starts_with(a.action, :action || '.'))
      AND (CAST(:key_id AS uuid) IS NULL OR a.key_id = :key_id)
      AND (CAST(:actor AS text) IS NULL OR a.actor = :actor)
      AND (CAST(:since AS timestamptz) IS NULL OR a.created_at >= :since)
      AND (CAST(:until AS timestamptz) IS NULL OR a.created_at < :until)
    ORDER BY a.id DESC LIMIT :limit
""")


def write(tx: Transaction, act: Act) -> None:
    """Write one row."""
    values = {**vars(act), "id": new_id(), "subject": clean_text(act.subject), "data": as_jsonb(act.data)}
    tx.execute(_WRITE, values)


@dataclass(frozen=True)
class Wanted:
    """Which acts are looked for. `action` is a whole one or the noun before its dot; `since` and `until` (excluded) are
    aware."""

    action: str | None = None
    key_id: UUID | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def list_acts(
    tx: Transaction, tenant_id: UUID | None, wanted: Wanted, *, after: UUID | None, limit: int
) -> list[StoredAct]:
    """Acts on a tenant (None: on every one), newest first, below the id `after`."""
    words = {name: clean_text(word) for name in ("action", "actor") if (word := getattr(wanted, name)) is not None}
    values = {**vars(wanted), **words, "tenant_id": tenant_id, "after": after, "limit": limit}
    return [_as_act(dict(row._mapping)) for row in tx.execute(_LIST, values)]


def _as_act(row: dict[str, Any]) -> StoredAct:
    found = {name: row.pop(name) for name in ("id", "tenant", "created_at")}
    return StoredAct(act=Act(**row), **found)
