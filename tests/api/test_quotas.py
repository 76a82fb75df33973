"""A quota over HTTP: 429 with what OpenAI's SDK and a person need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient


def test_over_the_quota_is_429_until_there_is_room(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    limits = client.post("/v1/queue/limits", json={"max_jobs": 2, "weight": 4}).json
    assert (limits["tenant"], limits["jobs"], limits["max_jobs"], limits["weight"]) == ("default", 0, 2, 4)
    first, _ = (client.post("/v1/jobs", json=ask()).json["id"] for _ in range(2))
    refused = client.post("/v1/jobs", json=ask(), headers={"Idempotency-Key": "k"})
    assert refused.status_code == 429
    assert refused.json["error"]["code"] == "quota_exceeded"
    assert refused.json["error"]["type"] == "rate_limit_error"
    assert "2 jobs that wait or run, of at most 2" in refused.json["error"]["message"]
    assert refused.headers["x-should-retry"] == "true"
    assert 1 <= int(refused.headers["Retry-After"]) <= 120
    client.post(f"/v1/jobs/{first}/cancel")
    again = client.post("/v1/jobs", json=ask(), headers={"Idempotency-Key": "k"})
    assert again.status_code == 202, "what was refused has used up no key"
    replayed = client.post("/v1/jobs", json=ask(), headers={"Idempotency-Key": "k"})
    assert (replayed.status_code, replayed.json["id"]) == (202, again.json["id"]), "a replay needs no room"
    client.post("/v1/queue/limits", json={})
    assert client.post("/v1/jobs", json=ask()).status_code == 202


def test_a_quota_of_nothing_stops_a_tenant(
    client: FlaskClient, stranger: FlaskClient, ask: Callable[..., dict[str, Any]]
) -> None:
    client.post("/v1/queue/limits", json={"max_jobs": 0})
    assert client.post("/v1/jobs", json=ask()).status_code == 413
    assert stranger.post("/v1/jobs", json=ask()).status_code == 202
