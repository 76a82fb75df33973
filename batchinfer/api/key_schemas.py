"""The JSON of API keys, tenants and the audit log."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from batchinfer.api.schemas import MaybeTime, Time
from batchinfer.domain.keys import (
    LONGEST_S,
    MOST_DAYS,
    MOST_JOBS,
    MOST_REQUESTS,
    MOST_WEIGHT,
    NAME_CHARS,
    OVERLAP_S,
    SCOPES,
)


class KeyBody(BaseModel):
    """An API key without its secret. `prefix` is what people tell keys apart by."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    prefix: str
    scopes: list[str]
    status: Literal["active", "expired", "revoked"]
    requests_per_minute: int | None
    created_at: Time
    expires_at: MaybeTime
    revoked_at: MaybeTime
    last_used_at: MaybeTime


class NewKeyBody(KeyBody):
    """A key that was just made."""

    key: str | None = Field(description="The key itself, this once; null in the replay of an earlier request.")


class KeyList(BaseModel):
    """A page of keys."""

    object: Literal["list"] = "list"
    data: list[KeyBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class TenantBody(BaseModel):
    """A tenant. `max_jobs` null takes the setting `quota_jobs`, `keep_days` null the one of that name; 0: for ever."""

    id: str
    object: Literal["tenant"] = "tenant"
    name: str
    max_jobs: int | None
    weight: int
    keep_days: int | None


class TenantList(BaseModel):
    """A page of tenants."""

    object: Literal["list"] = "list"
    data: list[TenantBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ActBody(BaseModel):
    """What an administrator did, to what, and whose tenant it is. `key_id` null: at the command line."""

    id: str
    object: Literal["audit_act"] = "audit_act"
    action: str
    subject: str
    tenant: str
    actor: str
    key_id: str | None
    data: dict[str, Any]
    created_at: Time


class AuditList(BaseModel):
    """A page of the audit log."""

    object: Literal["list"] = "list"
    data: list[ActBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


_NAME = {"type": "string", "minLength": 1, "maxLength": NAME_CHARS}
_KEY = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {**_NAME, "description": "What the key is for."},
        "scopes": {"type": "array", "items": {"enum": list(SCOPES)}, "minItems": 1, "maxItems": len(SCOPES)},
        "expires_in": _or_null({"type": "integer", "minimum": 1, "maximum": LONGEST_S, "description": "Seconds."}),
        "requests_per_minute": _or_null({"type": "integer", "minimum": 1, "maximum": MOST_REQUESTS}),
        "tenant": _or_null({**_NAME, "description": "Whose key it is. Only the operator's keys may name another."}),
    },
    "required": ["name", "scopes"],
}
_TENANT = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": _NAME,
        "max_jobs": _or_null({"type": "integer", "minimum": 0, "maximum": MOST_JOBS}),
        "weight": _or_null({"type": "integer", "minimum": 1, "maximum": MOST_WEIGHT}),
    },
    "required": ["name"],
}
_RETENTION = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "tenant": _or_null({**_NAME, "description": "Whose jobs; the operator's own if left out."}),
        "keep_days": _or_null(
            {
                "type": "integer",
                "minimum": 0,
                "maximum": MOST_DAYS,
                "description": "0 keeps for ever; null, or left out, as the setting says.",
            }
        ),
    },
}
_ROTATION = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "overlap": _or_null(
            {"type": "integer", "minimum": 0, "maximum": LONGEST_S,
             "description": f"Seconds for which the old key goes on; {OVERLAP_S:,} if left out. 0 ends it at once."}
        )
    },
}  # fmt: skip
SCHEMAS: dict[str, dict[str, Any]] = {
    "KeyCreate": _KEY, "KeyRotate": _ROTATION, "TenantCreate": _TENANT, "TenantRetention": _RETENTION
}  # fmt: skip


def _body(name: str, examples: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    content = {"schema": {"$ref": f"#/components/schemas/{name}"}}
    shown = {label: {"value": value} for label, value in examples.items()}
    return {"required": required, "content": {"application/json": {**content, "examples": shown}}}


CREATE_KEY = _body(
    "KeyCreate",
    {
        "submits": {"name": "scanner in the post room", "scopes": ["submit", "read"], "expires_in": 7_776_000},
        "slowly": {"name": "dashboard", "scopes": ["read"], "requests_per_minute": 120},
    },
)
ROTATE_KEY = _body("KeyRotate", {"a day": {"overlap": 86_400}}, required=False)
CREATE_TENANT = _body("TenantCreate", {"weighted": {"name": "accounting", "max_jobs": 100_000, "weight": 2}})
RETENTION = _body("TenantRetention", {"a week": {"keep_days": 7}})
