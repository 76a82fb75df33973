"""API keys: made, shown once, stored as a SHA-256, and checked."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING

from batchinfer.domain.ids import DEFAULT_TENANT, KEY, new_id, show_id
from batchinfer.domain.keys import SCOPES, KeyRequest
from batchinfer.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated
from batchinfer.observe.clock import to_unix
from batchinfer.services.audit import NO_KEY, note
from batchinfer.services.context import Caller, Page
from batchinfer.services.quotas import find_tenant
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.store import keys as store

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from batchinfer.services.context import Context, Idempotency
    from batchinfer.store.keys import StoredKey
    from batchinfer.store.session import Transaction

#: `bi_`, 8 characters that people tell keys apart by, `_`, 43 characters of 256 random bits.
_TOKEN = re.compile(r"bi_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
#: A key's last use is noted at most this often.
_NOTE_EVERY_S = 60.0
_NOBODY = hashlib.sha256(b"nobody").digest()


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
    requests_per_minute: int | None = None,
    actor: str = "the command line",
) -> tuple[StoredKey, str]:
    """A key that the installation itself makes, and its token, which nobody can show again.

    Raises BadRequest (a scope).
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise BadRequest(
            f"A key needs scopes out of {', '.join(SCOPES)}; got {', '.join(unknown) or 'none'}.",
            param="scopes",
        )
    wanted = KeyRequest(name, frozenset(scopes), requests_per_minute=requests_per_minute)
    with ctx.db.transaction() as tx:
        maker = Caller(tenant_id, NO_KEY, actor, frozenset(SCOPES))
        return _make(tx, maker, new_id(), tenant_id, wanted, expires_in_s)


def issue_key(
    ctx: Context, caller: Caller, request: KeyRequest, idempotency: Idempotency | None = None
) -> tuple[StoredKey, str | None]:
    """A key for the caller's tenant, or by an operator for another's. Answers it and its token, once: a replay of an
    earlier request has none.

    Raises Forbidden (also code scope_not_held), NotFound (code tenant_not_found), KeyReused.
    """
    caller.require("admin")
    _require_held(caller, request.scopes)
    with ctx.db.transaction() as tx:
        tenant_id = find_tenant(tx, caller, request.tenant).id
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return _find(ctx, tenant_id, found.resource_id), None
    key_id = new_id()
    try:
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, idempotency, "key", key_id)
            return _make(tx, caller, key_id, tenant_id, request, request.expires_in_s)
    except Replayed as replay:
        return _find(ctx, tenant_id, replay.found.resource_id), None


def _require_held(caller: Caller, scopes: Collection[str]) -> None:
    if beyond := sorted(set(scopes) - caller.scopes):
        raise Forbidden(
            f"This key lacks {', '.join(beyond)} and cannot hand on what it does not have. Use a key that has it.",
            code="scope_not_held",
            param="scopes",
        )


def rotate_key(
    ctx: Context, caller: Caller, key_id: UUID, overlap_s: float, idempotency: Idempotency | None = None
) -> tuple[StoredKey, str | None]:
    """Replace a key of the caller's tenant, for an operator of any, by one of the same name, scopes, rate and time to
    live; the old one ends after `overlap_s` seconds, or earlier where it was to. Answers the new one and its token,
    once: a replay of an earlier request has none.

    Raises Forbidden (also code scope_not_held), NotFound (code key_not_found), Conflict (code key_ended), KeyReused.
    """
    caller.require("admin")
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return _find(ctx, _reach(caller), found.resource_id), None
    new_key_id = new_id()
    try:
        with ctx.db.transaction() as tx:
            old = _require(store.get_key(tx, _reach(caller), key_id))
            _require_held(caller, old.scopes)
            take_key(ctx, tx, caller, idempotency, "key", new_key_id)
            if not store.shorten_key(tx, _reach(caller), key_id, overlap_s):
                raise Conflict("This key has ended, so there is nothing to replace. Make a new key.", code="key_ended")
            lives_s = (old.expires_at - old.created_at).total_seconds() if old.expires_at else None
            wanted = KeyRequest(old.name, old.scopes, requests_per_minute=old.requests_per_minute)
            new, token = _insert(tx, new_key_id, old.tenant_id, wanted, lives_s)
            ends = _require(store.get_key(tx, _reach(caller), key_id)).expires_at
            told = {"name": old.name, "successor": show_id(KEY, new_key_id), "ends_at": to_unix(ends)}
            note(tx, caller, "key.rotate", show_id(KEY, key_id), tenant_id=old.tenant_id, **told)
            return new, token
    except Replayed as replay:
        return _find(ctx, _reach(caller), replay.found.resource_id), None


def _make(
    tx: Transaction, maker: Caller, key_id: UUID, tenant_id: UUID, wanted: KeyRequest, expires_in_s: float | None
) -> tuple[StoredKey, str]:
    key, token = _insert(tx, key_id, tenant_id, wanted, expires_in_s)
    told = {"name": key.name, "scopes": sorted(key.scopes), "expires_at": to_unix(key.expires_at)}
    note(tx, maker, "key.create", show_id(KEY, key_id), tenant_id=tenant_id, **told)
    return key, token


def _insert(
    tx: Transaction, key_id: UUID, tenant_id: UUID, wanted: KeyRequest, expires_in_s: float | None
) -> tuple[StoredKey, str]:
    while True:
        prefix, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        token = f"bi_{prefix}_{secret}"
        if store.insert_key(
            tx, key_id, tenant_id=tenant_id, name=wanted.name, prefix=prefix, sha256=_digest(token),
            scopes=wanted.scopes, expires_in_s=expires_in_s, requests_per_minute=wanted.requests_per_minute,
        ):  # fmt: skip
            break
    return _require(store.get_key(tx, tenant_id, key_id)), token


def _require(key: StoredKey | None) -> StoredKey:
    if key is None:
        raise NotFound("No key with this id. It may be another tenant's.", code="key_not_found")
    return key


def _find(ctx: Context, tenant_id: UUID | None, key_id: UUID) -> StoredKey:
    with ctx.db.transaction() as tx:
        return _require(store.get_key(tx, tenant_id, key_id))


def _reach(caller: Caller) -> UUID | None:
    """Whose keys the caller may see and end: its own tenant's; an operator everybody's (None)."""
    return None if caller.tenant_id == DEFAULT_TENANT else caller.tenant_id


def get_key(ctx: Context, caller: Caller, key_id: UUID) -> StoredKey:
    """A key of the caller's tenant, for an operator of any, without its secret. Raises NotFound (key_not_found)."""
    caller.require("admin")
    return _find(ctx, _reach(caller), key_id)


def list_keys(
    ctx: Context, caller: Caller, *, tenant: str | None = None, after: UUID | None = None, limit: int = 20
) -> Page[StoredKey]:
    """The keys of a tenant (None: the caller's own), ended ones too, newest first, below the id `after`.

    Raises NotFound (code tenant_not_found): for others than operators no other tenant exists.
    """
    caller.require("admin")
    with ctx.db.transaction() as tx:
        owner = find_tenant(tx, caller, tenant)
        found = store.list_keys(tx, owner.id, after=after, limit=limit + 1)
    return Page.cut(found, limit, backwards=False)


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
    return Caller(found.tenant_id, found.id, found.name, found.scopes, found.requests_per_minute)


def revoke_key(ctx: Context, caller: Caller, key_id: UUID) -> tuple[StoredKey, bool]:
    """End a key of the caller's tenant, for an operator of any, at once. Answers it, and whether it was this that
    ended it. Raises NotFound (code key_not_found)."""
    caller.require("admin")
    with ctx.db.transaction() as tx:
        ended = store.revoke_key(tx, _reach(caller), key_id)
        key = _require(store.get_key(tx, _reach(caller), key_id))
        note(tx, caller, "key.revoke", show_id(KEY, key_id), tenant_id=key.tenant_id, name=key.name, changed=ended)
    return key, ended


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
