"""Webhook endpoints over HTTP, as OpenAI's SDK asks for them; what is delivered to them; and the types of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api import webhook_schemas as schemas
from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply, show_error
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.patience import take_place
from batchinfer.api.queries import DeliveryPath, EndpointPath, PageQuery
from batchinfer.api.state import current
from batchinfer.api.submission import read_body, read_json
from batchinfer.domain.ids import DELIVERY, ENDPOINT, parse_id, show_id
from batchinfer.domain.webhooks import (
    EVENT_TYPES,
    Endpoint,
    find_reach,
    hint_secret,
    parse_endpoint,
    parse_rotation,
    parse_test,
)
from batchinfer.observe.clock import to_unix
from batchinfer.services import deliveries, webhooks
from batchinfer.services.sending import TEST

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.jobs import Attempt
    from batchinfer.services.deliveries import Told

routes = APIBlueprint(
    "webhooks",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "webhooks"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
_ONE = "/webhook_endpoints/<endpoint_id>"


@routes.post(
    "/webhook_endpoints",
    operation_id="create_webhook_endpoint",
    request_body=schemas.CREATE,
    responses={200: schemas.SecretEndpointBody, **refusals(409, 413, 415, 422)},
)
def create_endpoint() -> Response:
    """Have events sent to a URL. The answer has the secret that they are signed with; no later one shows it."""
    caller().require("admin")
    body, idempotency = read_json("/v1/webhook_endpoints")
    request = parse_endpoint(body, find_reach(current().context.settings), whole=True)
    endpoint, replayed = webhooks.create_endpoint(current().context, caller(), request, idempotency)
    response = reply(_show_secret(endpoint))
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@routes.get("/webhook_endpoints", operation_id="list_webhook_endpoints", responses={200: schemas.EndpointList})
def list_endpoints(query: PageQuery) -> Response:
    """Webhook endpoints, newest first."""
    after = read_cursor(ENDPOINT, query.after)
    page = webhooks.list_endpoints(current().context, caller(), after=after, limit=query.limit)
    return reply(schemas.EndpointList(**show_page(page, show_endpoint)))


@routes.get(_ONE, operation_id="get_webhook_endpoint", responses={200: schemas.EndpointBody})
def get_endpoint(path: EndpointPath) -> Response:
    """A webhook endpoint, and how it fares."""
    return reply(show_endpoint(webhooks.get_endpoint(current().context, caller(), _read_id(path))))


@routes.post(
    _ONE,
    operation_id="change_webhook_endpoint",
    request_body=schemas.CHANGE,
    responses={200: schemas.EndpointBody, **refusals(413)},
)
def change_endpoint(path: EndpointPath) -> Response:
    """Change the name, the URL or the events of an endpoint; what is left out stays. The secret stays too."""
    caller().require("admin")
    request = parse_endpoint(read_body(), find_reach(current().context.settings), whole=False)
    return reply(show_endpoint(webhooks.change_endpoint(current().context, caller(), _read_id(path), request)))


@routes.delete(_ONE, operation_id="delete_webhook_endpoint", responses={200: schemas.EndpointDeleted})
def delete_endpoint(path: EndpointPath) -> Response:
    """Send nothing more to an endpoint, and forget it."""
    webhooks.delete_endpoint(current().context, caller(), _read_id(path))
    return reply(schemas.EndpointDeleted(id=path.endpoint_id, deleted=True))


@routes.post(
    f"{_ONE}/rotate_secret",
    operation_id="rotate_webhook_secret",
    request_body=schemas.ROTATE,
    responses={200: schemas.SecretEndpointBody, **refusals(413)},
)
def rotate_secret(path: EndpointPath) -> Response:
    """Give an endpoint another secret, shown here once. The former one may sign beside it for 24 hours."""
    caller().require("admin")
    keep_old = parse_rotation(read_body())
    return reply(_show_secret(webhooks.rotate_secret(current().context, caller(), _read_id(path), keep_old=keep_old)))


@routes.post(f"{_ONE}/enable", operation_id="enable_webhook_endpoint", responses={200: schemas.EndpointBody})
def enable_endpoint(path: EndpointPath) -> Response:
    """Send to a disabled or paused endpoint again, beginning with what waited. Twice is as once."""
    return reply(show_endpoint(webhooks.enable_endpoint(current().context, caller(), _read_id(path))))


@routes.post(
    f"{_ONE}/test",
    operation_id="test_webhook_endpoint",
    request_body=schemas.TEST,
    responses={200: schemas.TestResult, **refusals(413, 504)},
)
def test_endpoint(path: EndpointPath) -> Response:
    """Have a CPU worker send one event about something made up, and wait for the receiver's status."""
    caller().require("admin")
    endpoint_id, event_type = _read_id(path), parse_test(read_body())
    with take_place():
        event_type, status = deliveries.send_test(current().context, caller(), endpoint_id, event_type)
    shown = {"webhook_endpoint_id": path.endpoint_id, "event_type": event_type, "status_code": status}
    return reply(schemas.TestResult.model_validate(shown))


@routes.get(f"{_ONE}/deliveries", operation_id="list_webhook_deliveries", responses={200: schemas.DeliveryList})
def list_deliveries(path: EndpointPath, query: PageQuery) -> Response:
    """What was or is to be delivered to an endpoint, newest first, with every try."""
    after = read_cursor(DELIVERY, query.after)
    page = deliveries.list_deliveries(current().context, caller(), _read_id(path), after=after, limit=query.limit)
    return reply(schemas.DeliveryList(**show_page(page, show_delivery)))


@routes.post(
    f"{_ONE}/deliveries/<delivery_id>/redeliver",
    operation_id="redeliver_webhook",
    responses={200: schemas.DeliveryBody, **refusals(409)},
)
def redeliver(path: DeliveryPath) -> Response:
    """Deliver an event once more under the same `webhook-id`, whatever became of it; one that waits is tried now."""
    ids = parse_id(ENDPOINT, path.endpoint_id), parse_id(DELIVERY, path.delivery_id)
    return reply(show_delivery(deliveries.deliver_again(current().context, caller(), *ids)))


@routes.get("/webhook_event_types", operation_id="list_webhook_event_types", responses={200: schemas.EventTypeList})
def list_event_types() -> Response:
    """Every type of event that an endpoint can hear of."""
    caller().require("read")
    return reply(schemas.EventTypeList(data=list(EVENT_TYPES)))


def show_endpoint(endpoint: Endpoint) -> schemas.EndpointBody:
    """An endpoint as OpenAI shows it."""
    return schemas.EndpointBody.model_validate(_show(endpoint))


def show_delivery(told: Told) -> schemas.DeliveryBody:
    """A delivery with its tries."""
    delivery = told.delivery
    ended = "delivered" if delivery.final_state == "succeeded" else delivery.final_state
    return schemas.DeliveryBody.model_validate(
        {
            "id": show_id(DELIVERY, delivery.id),
            "webhook_endpoint_id": show_id(ENDPOINT, delivery.endpoint_id) if delivery.endpoint_id else "",
            "event": delivery.payload,
            "test": delivery.subject == TEST,
            "status": ended or ("waiting" if delivery.next_at else "delivering"),
            "created_at": to_unix(delivery.created_at),
            "next_attempt_at": to_unix(delivery.next_at),
            "finished_at": to_unix(delivery.finished_at),
            "error": show_error(delivery.error),
            "attempts": [_show_try(one) for one in told.tries],
        }
    )


def _show_try(one: Attempt) -> dict[str, Any]:
    facts = one.timings or {}
    status = facts.get("status")
    return {
        "number": one.number,
        "outcome": one.outcome,
        "status_code": None if status is None else int(status),
        "seconds": facts.get("seconds"),
        "started_at": to_unix(one.started_at),
        "finished_at": to_unix(one.finished_at),
        "error": show_error(one.error),
    }


def _show_secret(endpoint: Endpoint) -> schemas.SecretEndpointBody:
    return schemas.SecretEndpointBody.model_validate({**_show(endpoint), "signing_secret": endpoint.secret})


def _show(endpoint: Endpoint) -> dict[str, Any]:
    times = {name: to_unix(getattr(endpoint, name)) for name in ("disabled_at", "failing_since", "old_secret_until")}
    paused = endpoint.held and endpoint.disabled_at is None
    return {
        "id": show_id(ENDPOINT, endpoint.id),
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": list(endpoint.event_types),
        "signing_secret_hint": hint_secret(endpoint.secret),
        "created_at": to_unix(endpoint.created_at),
        "updated_at": to_unix(endpoint.updated_at),
        "batchinfer": {
            **times,
            "status": endpoint.status,
            "disabled_reason": endpoint.disabled_reason,
            "failures": endpoint.failures,
            "paused_until": to_unix(endpoint.held_until) if paused else None,
            "last_error": endpoint.last_error,
        },
    }


def _read_id(path: EndpointPath) -> UUID:
    return parse_id(ENDPOINT, path.endpoint_id)
