"""Tenants and API keys. A key's secret is never here: only its SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class StoredKey:
    """A key's row. `valid`: neither revoked nor expired. `unused_s`: seconds since its last use, None before it."""

    id: UUID
    tenant_id: UUID
    name: str
    prefix: str
    sha256: bytes
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    requests_per_minute: int | None
    valid: bool
    unused_s: float | None


_TENANT = text("INSERT INTO tenants (id, name) VALUES (:id, :name) ON CONFLICT DO NOTHING")
_INSERT = text("""
    INSERT INTO api_keys (id, tenant_id, name, prefix, sha256, scopes, requests_per_minute, expires_at)
    VALUES (:id, :tenant_id, :name, :prefix, :sha256, :scopes, :requests_per_minute,
            now() + make_interval(secs => :expires_in_s))
    ON CONFLICT (prefix) DO NOTHING RETURNING id
""")
_COLUMNS = """
    id, tenant_id, name, prefix, sha256, scopes, created_at, expires_at, revoked_at, last_used_at, requests_per_minute,
    revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AS valid,
    CAST(extract(epoch FROM now() - last_used_at) AS float) AS unused_s
"""
_FIND = text(f"SELECT {_COLUMNS} FROM api_keys WHERE prefix = :prefix")  # noqa: S608
_MINE = "(CAST(:tenant_id AS uuid) IS NULL OR tenant_id = :tenant_id)"
_GET = text(f"SELECT {_COLUMNS} FROM api_keys WHERE id = :id AND {_MINE}")  # noqa: S608
_LIST = text(f"""
    SELECT {_COLUMNS} FROM api_keys WHERE tenant_id = :tenant_id AND (CAST(:after AS uuid) IS NULL OR id < :after)
    ORDER BY id DESC LIMIT :limit
""")  # noqa: S608
_TOUCH = text("UPDATE api_keys SET last_used_at = now() WHERE id = :id")
_REVOKE = text(f"""
    UPDATE api_keys SET revoked_at = now() WHERE id = :id AND {_MINE} AND revoked_at IS NULL RETURNING id
""")  # noqa: S608
_SHORTEN = text(f"""
    UPDATE api_keys SET expires_at = least(expires_at, now() + make_interval(secs => :within_s))
    WHERE id = :id AND {_MINE} AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) RETURNING id
""")  # noqa: S608


def ensure_tenant(tx: Transaction, tenant_id: UUID, name: str) -> None:
    """Make a tenant where it is missing."""
    tx.execute(_TENANT, {"id": tenant_id, "name": name})


def insert_key(
    tx: Transaction,
    key_id: UUID,
    *,
    tenant_id: UUID,
    name: str,
    prefix: str,
    sha256: bytes,
    scopes: Collection[str],
    expires_in_s: float | None = None,
    requests_per_minute: int | None = None,
) -> bool:
    """Store a key. False where the prefix is taken: choose another."""
    values = {"id": key_id, "tenant_id": tenant_id, "name": name, "prefix": prefix, "sha256": sha256}
    limits = {"expires_in_s": expires_in_s, "requests_per_minute": requests_per_minute}
    return tx.execute(_INSERT, {**values, **limits, "scopes": sorted(scopes)}).first() is not None


def find_key(tx: Transaction, prefix: str) -> StoredKey | None:
    """The key with this prefix, valid or not."""
    row = tx.execute(_FIND, {"prefix": prefix}).first()
    return _as_key(row._mapping) if row else None


def get_key(tx: Transaction, tenant_id: UUID | None, key_id: UUID) -> StoredKey | None:
    """A key of a tenant (None: of any), valid or not."""
    row = tx.execute(_GET, {"id": key_id, "tenant_id": tenant_id}).first()
    return _as_key(row._mapping) if row else None


def list_keys(tx: Transaction, tenant_id: UUID, *, after: UUID | None = None, limit: int = 1000) -> list[StoredKey]:
    """A tenant's keys, newest first, below the id `after`."""
    rows = tx.execute(_LIST, {"tenant_id": tenant_id, "after": after, "limit": limit})
    return [_as_key(row._mapping) for row in rows]


def touch_key(tx: Transaction, key_id: UUID) -> None:
    """Note that a key was used."""
    tx.execute(_TOUCH, {"id": key_id})


def revoke_key(tx: Transaction, tenant_id: UUID | None, key_id: UUID) -> bool:
    """End a key of a tenant (None: of any). False if it had ended or is not there."""
    return tx.execute(_REVOKE, {"id": key_id, "tenant_id": tenant_id}).first() is not None


def shorten_key(tx: Transaction, tenant_id: UUID | None, key_id: UUID, within_s: float) -> bool:
    """Let a key of a tenant (None: of any) end within so many seconds; never later than before. False if it had ended
    or is not there."""
    values = {"id": key_id, "tenant_id": tenant_id, "within_s": within_s}
    return tx.execute(_SHORTEN, values).first() is not None


def _as_key(row: object) -> StoredKey:
    values = dict(row)  # type: ignore[call-overload]
    return StoredKey(**{**values, "sha256": bytes(values["sha256"]), "scopes": frozenset(values["scopes"])})
