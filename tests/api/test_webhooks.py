"""Webhook endpoints over HTTP: made, shown without their secret, changed, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.webhooks import EVENT_TYPES, MAX_ENDPOINTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

BODY = {"name": "mine", "url": "https://example.com/hook", "event_types": ["batch.completed", "job.cancelled"]}


@pytest.fixture
def endpoint(client: FlaskClient) -> dict[str, Any]:
    """As the answer that made it has it."""
    answer = client.post("/v1/webhook_endpoints", json=BODY)
    assert answer.status_code == 200, answer.json
    return answer.json


def test_the_secret_is_in_the_answer_that_made_it_and_in_no_other(
    client: FlaskClient, endpoint: dict[str, Any]
) -> None:
    path = f"/v1/webhook_endpoints/{endpoint['id']}"
    secret = endpoint.pop("signing_secret")
    assert secret.startswith("whsec_")
    assert endpoint["signing_secret_hint"].endswith(secret[-5:])
    others = [client.get(path), client.get("/v1/webhook_endpoints"), client.post(path, json={"name": "other"})]
    others += [client.get(f"{path}/deliveries"), client.post(f"{path}/enable")]
    assert all(answer.status_code == 200 and secret not in answer.text for answer in others)
    assert others[0].json == endpoint
    rotated = client.post(f"{path}/rotate_secret").json
    assert rotated["signing_secret"] not in {secret, None}
    assert client.get(path).json["signing_secret_hint"] == rotated["signing_secret_hint"]


def test_it_is_shown_as_openai_shows_it_with_ours_apart(endpoint: dict[str, Any]) -> None:
    assert endpoint["object"] == "webhook_endpoint"
    assert endpoint["created_at"] == endpoint["updated_at"]
    assert {name: endpoint[name] for name in BODY} == BODY
    assert endpoint["batchinfer"] == {
        "status": "enabled", "disabled_at": None, "disabled_reason": None, "failures": 0, "failing_since": None,
        "paused_until": None, "last_error": None, "old_secret_until": None,
    }  # fmt: skip


def test_the_same_creation_again_answers_the_same_endpoint_with_its_secret(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "one"}
    first = client.post("/v1/webhook_endpoints", json=BODY, headers=headers)
    again = client.post("/v1/webhook_endpoints", json=BODY, headers=headers)
    assert (again.json, again.headers["Idempotency-Replayed"]) == (first.json, "true")
    assert len(client.get("/v1/webhook_endpoints").json["data"]) == 1
    other = client.post("/v1/webhook_endpoints", json={**BODY, "name": "other"}, headers=headers)
    assert (other.status_code, other.json["error"]["code"]) == (422, "idempotency_key_reused")


def test_it_is_changed_field_by_field_and_deleted(client: FlaskClient, endpoint: dict[str, Any]) -> None:
    path = f"/v1/webhook_endpoints/{endpoint['id']}"
    changed = client.post(path, json={"event_types": ["job.failed", "job.failed"]}).json
    assert (changed["event_types"], changed["name"], changed["url"]) == (["job.failed"], "mine", BODY["url"])
    assert client.post(path).json == changed, "nothing given, nothing changed"
    assert client.delete(path).json == {"id": endpoint["id"], "object": "webhook_endpoint.deleted", "deleted": True}
    gone = client.get(path)
    assert (gone.status_code, gone.json["error"]["code"]) == (404, "webhook_endpoint_not_found")
    assert client.delete(path).status_code == 404


def test_endpoints_are_listed_page_by_page_and_there_is_a_limit(client: FlaskClient) -> None:
    ids = [client.post("/v1/webhook_endpoints", json=BODY).json["id"] for _ in range(MAX_ENDPOINTS)]
    page = client.get("/v1/webhook_endpoints?limit=10").json
    rest = client.get(f"/v1/webhook_endpoints?limit=10&after={page['last_id']}").json
    assert [one["id"] for one in page["data"] + rest["data"]] == ids[::-1]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    full = client.post("/v1/webhook_endpoints", json=BODY)
    assert (full.status_code, full.json["error"]["code"]) == (400, "too_many_webhook_endpoints")


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"url": "http://example.com"}, "url_not_allowed", "url"),
        ({"url": "https://127.0.0.1/"}, "url_not_allowed", "url"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "url_not_allowed", "url"),
        ({"url": "https://[64:ff9b::a9fe:a9fe]/"}, "url_not_allowed", "url"),
        ({"url": "https://a@example.com"}, "invalid_url", "url"),
        ({"url": "https://127.0.0.1:8000\\@example.com/"}, "invalid_url", "url"),
        ({"url": 7}, "invalid_type", "url"),
        ({"event_types": ["fine_tuning.job.failed"]}, "invalid_value", "event_types.0"),
        ({"secret": "whsec_mine"}, "unknown_parameter", "secret"),
        ({"name": None}, "missing_required_parameter", "name"),
    ],
)
def test_what_is_refused_names_its_field(client: FlaskClient, change: dict[str, Any], code: str, param: str) -> None:
    answer = client.post("/v1/webhook_endpoints", json={**BODY, **change})
    assert (answer.status_code, answer.json["error"]["code"], answer.json["error"]["param"]) == (400, code, param)


def test_every_type_of_event_is_listed(client: FlaskClient) -> None:
    assert client.get("/v1/webhook_event_types").json == {"object": "list", "data": list(EVENT_TYPES)}
    assert {"batch.completed", "batch.expired", "response.incomplete", "job.quarantined"} <= set(EVENT_TYPES)


def test_a_delivery_is_listed_and_can_be_asked_for_again(
    client: FlaskClient, endpoint: dict[str, Any], ask: Callable[..., dict[str, Any]]
) -> None:
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    path = f"/v1/webhook_endpoints/{endpoint['id']}/deliveries"
    (one,) = client.get(path).json["data"]
    assert (one["status"], one["event"]["type"], one["event"]["data"]) == (
        "waiting", "job.cancelled", {"id": job_id},
    )  # fmt: skip
    assert (one["attempts"], one["error"], one["test"], one["webhook_endpoint_id"]) == ([], None, False, endpoint["id"])
    again = client.post(f"{path}/{one['id']}/redeliver").json
    assert (again["id"], again["event"]) == (one["id"], one["event"])
    lost = client.post(f"{path}/{one['id'][:-4]}0000/redeliver")
    assert (lost.status_code, lost.json["error"]["code"]) == (404, "delivery_not_found")


def test_a_test_that_no_worker_takes_says_so(client: FlaskClient, endpoint: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr("batchinfer.services.deliveries._SPARE_S", -9.8)
    answer = client.post(f"/v1/webhook_endpoints/{endpoint['id']}/test", json={"event_type": "batch.failed"})
    assert (answer.status_code, answer.json["error"]["code"]) == (504, "timeout")
    (one,) = client.get(f"/v1/webhook_endpoints/{endpoint['id']}/deliveries").json["data"]
    assert (one["test"], one["event"]["type"], one["event"]["data"]["id"][:6]) == (True, "batch.failed", "batch_")
