"""Idempotency keys: written in the transaction of the resource that they name, so that both are there or neither.

A key is scoped by tenant, method and route, not by API key: a client with a new API key still gets its replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Scope:
    """Where a key counts."""

    tenant_id: UUID
    method: str
    route: str
    key: str


@dataclass(frozen=True)
class Remembered:
    """What a key stands for. `resource` is job or document."""

    request_sha256: bytes
    resource: str
    resource_id: UUID


_WHERE = "tenant_id = :tenant_id AND method = :method AND route = :route AND key = :key"
_FIND = text(
    f"SELECT request_sha256, resource, resource_id FROM idempotency_keys WHERE {_WHERE} AND expires_at > now()"  # noqa: S608
)
# Waits while another transaction holds the same key, until that one has ended; a key whose time has passed is taken.
_REMEMBER = text("""
    INSERT INTO idempotency_keys AS k (tenant_id, method, route, key, request_sha256, resource, resource_id, expires_at)
    VALUES (:tenant_id, :method, :route, :key, :request_sha256, :resource, :resource_id,
            now() + make_interval(hours => :hours))
    ON CONFLICT (tenant_id, method, route, key) DO UPDATE
    SET request_sha256 = excluded.request_sha256, resource = excluded.resource, resource_id = excluded.resource_id,
        created_at = now(), expires_at = excluded.expires_at
    WHERE k.expires_at <= now()
    RETURNING resource_id
""")
_FORGET = text("""
    DELETE FROM idempotency_keys WHERE (tenant_id, method, route, key) IN (
        SELECT tenant_id, method, route, key FROM idempotency_keys WHERE expires_at <= now()
        LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


def find_remembered(tx: Transaction, scope: Scope) -> Remembered | None:
    """What the key stands for, or None where it is new or forgotten."""
    row = tx.execute(_FIND, _values(scope)).first()
    if row is None:
        return None
    return Remembered(bytes(row.request_sha256), row.resource, row.resource_id)


def remember(tx: Transaction, scope: Scope, what: Remembered, *, hours: int) -> Remembered | None:
    """Take the key for `what`. Answers None, or what the key stands for where somebody took it first."""
    values = {
        "request_sha256": what.request_sha256,
        "resource": what.resource,
        "resource_id": what.resource_id,
        "hours": hours,
    }
    if tx.execute(_REMEMBER, _values(scope) | values).first() is not None:
        return None
    return find_remembered(tx, scope) or remember(tx, scope, what, hours=hours)


def forget_expired(tx: Transaction, *, limit: int = 10_000) -> int:
    """Drop keys whose time has passed, at most `limit`. Answers how many."""
    return tx.execute(_FORGET, {"limit": limit}).rowcount


def _values(scope: Scope) -> dict[str, object]:
    return {"tenant_id": scope.tenant_id, "method": scope.method, "route": scope.route, "key": scope.key}
