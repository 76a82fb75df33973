"""API keys over HTTP: made and shown once, listed, ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply
from batchinfer.api.idempotency import check_key
from batchinfer.api.key_schemas import CREATE_KEY, ROTATE_KEY, KeyBody, KeyList, NewKeyBody
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY as SECURITY
from batchinfer.api.openapi import refusals
from batchinfer.api.queries import KeyPath, KeysQuery
from batchinfer.api.state import current
from batchinfer.api.submission import read_json, read_optional_json
from batchinfer.domain.ids import KEY, parse_id, show_id
from batchinfer.domain.keys import parse_key, parse_rotation
from batchinfer.observe.clock import to_unix
from batchinfer.services import keys

if TYPE_CHECKING:
    from batchinfer.store.keys import StoredKey

routes = APIBlueprint(
    "keys",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "keys"}],
    abp_security=SECURITY,
    abp_responses=refusals(),
)


@routes.post(
    "/keys",
    operation_id="create_key",
    request_body=CREATE_KEY,
    responses={201: NewKeyBody, **refusals(409, 413, 415, 422)},
)
def create_key() -> Response:
    """Make a key and show it, this once. A key hands on no scope that it lacks."""
    caller().require("admin")
    body, idempotency = read_json("/v1/keys")
    return _show_new(*keys.issue_key(current().context, caller(), parse_key(body), idempotency))


@routes.get("/keys", operation_id="list_keys", responses={200: KeyList})
def list_keys(query: KeysQuery) -> Response:
    """Keys without their secrets, ended ones too, newest first."""
    page = keys.list_keys(
        current().context, caller(), tenant=query.tenant, after=read_cursor(KEY, query.after), limit=query.limit
    )
    return reply(KeyList(**show_page(page, show_key)))


@routes.get("/keys/<key_id>", operation_id="get_key", responses={200: KeyBody})
def get_key(path: KeyPath) -> Response:
    """A key without its secret: what it may do, when it ends, when it was last used (to the minute)."""
    return reply(show_key(keys.get_key(current().context, caller(), parse_id(KEY, path.key_id))))


@routes.post("/keys/<key_id>/revoke", operation_id="revoke_key", responses={200: KeyBody})
def revoke_key(path: KeyPath) -> Response:
    """End a key at once. Twice is as once."""
    return reply(show_key(keys.revoke_key(current().context, caller(), parse_id(KEY, path.key_id))[0]))


@routes.post(
    "/keys/<key_id>/rotate",
    operation_id="rotate_key",
    request_body=ROTATE_KEY,
    responses={201: NewKeyBody, **refusals(409, 413, 415, 422)},
)
def rotate_key(path: KeyPath) -> Response:
    """Replace a key by one of the same name, scopes and rate, shown this once. The old one ends after the overlap."""
    caller().require("admin")
    check_key()  # a key that is none is refused whatever the id is
    key_id = parse_id(KEY, path.key_id)
    body, idempotency = read_optional_json(f"/v1/keys/{key_id.hex}/rotate")
    return _show_new(*keys.rotate_key(current().context, caller(), key_id, parse_rotation(body), idempotency))


def _show_new(key: StoredKey, token: str | None) -> Response:
    response = reply(NewKeyBody(**_tell(key), key=token), 201)
    if token is None:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def show_key(key: StoredKey) -> KeyBody:
    """A key as people see it."""
    return KeyBody(**_tell(key))


def _tell(key: StoredKey) -> dict[str, Any]:
    return {
        "id": show_id(KEY, key.id),
        "name": key.name,
        "prefix": f"bi_{key.prefix}",
        "scopes": sorted(key.scopes),
        "status": "active" if key.valid else "revoked" if key.revoked_at else "expired",
        "requests_per_minute": key.requests_per_minute,
        "created_at": to_unix(key.created_at),
        "expires_at": to_unix(key.expires_at),
        "revoked_at": to_unix(key.revoked_at),
        "last_used_at": to_unix(key.last_used_at),
    }
