"""The JSON of webhook endpoints, as OpenAI's SDK types it. What is ours alone is in `batchinfer`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from batchinfer.api.schemas import ErrorDetail, MaybeTime, Time
from batchinfer.domain.webhooks import EVENT_TYPES


class EndpointFailure(BaseModel):
    """Why the last failed try failed."""

    code: str
    message: str


class EndpointExtras(BaseModel):
    """What OpenAI's object has no place for."""

    status: Literal["enabled", "disabled"]
    disabled_at: MaybeTime
    disabled_reason: Literal["gone", "failing"] | None = Field(description="It answered 410, or failed for too long.")
    failures: int = Field(description="Failed tries since one was taken.")
    failing_since: MaybeTime
    paused_until: MaybeTime
    last_error: EndpointFailure | None
    old_secret_until: MaybeTime


class EndpointBody(BaseModel):
    """A webhook endpoint."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str
    created_at: Time
    updated_at: Time
    batchinfer: EndpointExtras


class SecretEndpointBody(EndpointBody):
    """A webhook endpoint with its secret: in the answer that made it, and in no other."""

    signing_secret: str


class EndpointList(BaseModel):
    """A page of webhook endpoints."""

    object: Literal["list"] = "list"
    data: list[EndpointBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class EndpointDeleted(BaseModel):
    """A webhook endpoint that is deleted."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: bool


class EventTypeList(BaseModel):
    """Every type of event."""

    object: Literal["list"] = "list"
    data: list[str]


class TestResult(BaseModel):
    """A test was answered, with whatever status."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    success: Literal[True] = True
    status_code: int


class EventData(BaseModel):
    """What an event is about, by its id."""

    id: str


class EventBody(BaseModel):
    """An event, as it is the body of a delivery."""

    id: str
    object: Literal["event"] = "event"
    created_at: Time
    type: str
    data: EventData


class TryBody(BaseModel):
    """A try that ended. `outcome` is succeeded, failed, retry, lost, released, cancelled or expired."""

    object: Literal["webhook_delivery.attempt"] = "webhook_delivery.attempt"
    number: int
    outcome: str
    status_code: int | None
    seconds: float | None
    started_at: MaybeTime
    finished_at: Time
    error: ErrorDetail | None


class DeliveryBody(BaseModel):
    """An event on its way to an endpoint. `status` is waiting, delivering, delivered, failed, expired, cancelled or
    quarantined."""

    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    webhook_endpoint_id: str
    event: EventBody
    test: bool
    status: str
    created_at: Time
    next_attempt_at: MaybeTime
    finished_at: MaybeTime
    error: ErrorDetail | None
    attempts: list[TryBody]


class DeliveryList(BaseModel):
    """A page of deliveries."""

    object: Literal["list"] = "list"
    data: list[DeliveryBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


_FIELDS: dict[str, Any] = {
    "name": {"type": ["string", "null"], "maxLength": 256},
    "url": {"type": ["string", "null"], "description": "https://, or http:// where the operator permits it."},
    "event_types": {"type": ["array", "null"], "items": {"enum": list(EVENT_TYPES)}},
}


def _make_body(name: str, *, required: bool) -> dict[str, Any]:
    return {
        "required": required,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
    }


CREATE, CHANGE = _make_body("WebhookEndpointCreate", required=True), _make_body("WebhookEndpointChange", required=False)
ROTATE, TEST = _make_body("WebhookSecretRotate", required=False), _make_body("WebhookTest", required=False)
_TEST_FIELDS: dict[str, Any] = {"event_type": {"enum": [*EVENT_TYPES, None]}}
_ROTATE_FIELDS: dict[str, Any] = {"keep_old_secret_active_for_24_hours": {"type": ["boolean", "null"]}}
_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": False}
SCHEMAS: dict[str, dict[str, Any]] = {
    "WebhookEndpointCreate": {**_OBJECT, "properties": _FIELDS, "required": list(_FIELDS)},
    "WebhookEndpointChange": {**_OBJECT, "properties": _FIELDS},
    "WebhookSecretRotate": {**_OBJECT, "properties": _ROTATE_FIELDS},
    "WebhookTest": {**_OBJECT, "properties": _TEST_FIELDS},
}
