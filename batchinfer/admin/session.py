"""Who looks: a signed cookie with a key's id and fingerprint, checked against the stored key each time."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, cast

from flask import Flask, current_app, g, request, session
from flask.sessions import SecureCookieSessionInterface

from batchinfer.services.context import Caller, Context
from batchinfer.services.sessions import LOOKING
from batchinfer.store import keys

if TYPE_CHECKING:
    from batchinfer.store.keys import StoredKey

_CONTEXT = "batchinfer.admin"


class AdminSessions(SecureCookieSessionInterface):
    """Flask's signed cookie; marked Secure exactly when the request came over HTTPS."""

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002 - Flask's signature
        """Whether this answer's cookie may travel over HTTPS alone."""
        return request.is_secure


def attach_context(app: Flask, context: Context) -> None:
    """Give the pages what services and reads need."""
    app.extensions[_CONTEXT] = context


def get_context() -> Context:
    """The context of this application."""
    return cast("Context", current_app.extensions[_CONTEXT])


def get_caller() -> Caller:
    """Who is signed in. Only for pages behind the sign-in."""
    return cast("Caller", g.caller)


def sign_in(key: StoredKey) -> None:
    """Start a session for a key. The cookie holds its id, prefix and fingerprint, never the key."""
    session.clear()
    session["key"], session["prefix"], session["mark"] = key.id.hex, key.prefix, _fingerprint(key)


def find_caller() -> Caller | None:
    """The holder of this session's key; None without a session or once the key ended."""
    prefix = session.get("prefix")
    if not isinstance(prefix, str):
        return None
    with get_context().db.transaction() as tx:
        key = keys.find_key(tx, prefix)
    if key is None or not key.valid or session.get("key") != key.id.hex or not key.scopes & LOOKING:
        return None
    if not hmac.compare_digest(_fingerprint(key), str(session.get("mark", ""))):
        return None
    g.key_prefix = key.prefix
    return Caller(key.tenant_id, key.id, key.name, key.scopes)


def _fingerprint(key: StoredKey) -> str:
    return hashlib.sha256(b"admin session\0" + key.sha256).hexdigest()[:32]
