"""API keys: made, shown once, stored as a SHA-256, and checked."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.domain.ids import DEFAULT_TENANT, KEY, new_id, parse_id, show_id
from batchinfer.errors import BadRequest, Unauthenticated
from batchinfer.services.context import SCOPES, Caller
from batchinfer.store import keys as store

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from batchinfer.services.context import Context

#: `bi_`, 8 characters that people tell keys apart by, `_`, 43 characters of 256 random bits.
_TOKEN = re.compile(r"bi_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
#: A key's last use is noted at most this often.
_NOTE_EVERY_S = 60.0
_NOBODY = hashlib.sha256(b"nobody").digest()


@dataclass(frozen=True)
class Key:
    """A key without its secret. `prefix` are the 8 characters by which people tell keys apart."""

    id: UUID
    tenant_id: UUID
    name: str
    prefix: str
    scopes: frozenset[str]


def ensure_default_tenant(ctx: Context) -> UUID:
    """The one tenant of a fresh installation; made where it is missing."""
    with ctx.db.transaction() as tx:
        store.ensure_tenant(tx, DEFAULT_TENANT, "default")
    return DEFAULT_TENANT


def create_key(
    ctx: Context,
    name: str,
    scopes: Collection[str] = SCOPES,
    *,
    tenant_id: UUID = DEFAULT_TENANT,
    expires_in_s: float | None = None,
) -> tuple[Key, str]:
    """A new key and its token `bi_<prefix>_<secret>`, which nobody can show again. Raises BadRequest (a scope)."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise BadRequest(
            f"A key needs scopes out of {', '.join(SCOPES)}; got {', '.join(unknown) or 'none'}.",
            param="scopes",
        )
    while True:
        prefix, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        token = f"bi_{prefix}_{secret}"
        key = Key(new_id(), tenant_id, name, prefix, frozenset(scopes))
        with ctx.db.transaction() as tx:
            stored = store.insert_key(
                tx, key.id, tenant_id=tenant_id, name=name, prefix=prefix, sha256=_digest(token), scopes=scopes,
                expires_in_s=expires_in_s,
            )  # fmt: skip
        if stored:
            return key, token


def authenticate(ctx: Context, token: str) -> Caller:
    """Who holds this token. Raises Unauthenticated: unknown, expired and revoked keys answer the same."""
    match = _TOKEN.fullmatch(token)
    with ctx.db.transaction(relaxed=True) as tx:
        found = store.find_key(tx, match.group(1)) if match else None
        # Compared in any case, so that the time taken does not tell whether a prefix exists.
        same = hmac.compare_digest(found.sha256 if found else _NOBODY, _digest(token))
        if found is None or not same or not found.valid:
            raise Unauthenticated(
                "This API key is not valid. Send `Authorization: Bearer bi_…` with a key made by "
                "`batchinfer keys create`; one that was revoked or has expired needs a successor."
            )
        if found.unused_s is None or found.unused_s > _NOTE_EVERY_S:
            store.touch_key(tx, found.id)
    return Caller(found.tenant_id, found.id, found.name, found.scopes)


def revoke_key(ctx: Context, caller: Caller, shown_id: str) -> bool:
    """End a key of the caller's tenant at once (its id as `key_…`). False if it had ended. Raises NotFound."""
    caller.require("admin")
    with ctx.db.transaction() as tx:
        return store.revoke_key(tx, caller.tenant_id, parse_id(KEY, shown_id))


def show_key_id(key: Key) -> str:
    """The key's id as people see it."""
    return show_id(KEY, key.id)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
