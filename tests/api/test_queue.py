"""The queue over HTTP: look, pause, resume, change class; who may, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient


def test_a_pause_is_shown_with_who_did_it_and_ends(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], model: str
) -> None:
    client.post("/v1/jobs", json=ask())
    shown = client.get("/v1/queue").json
    (waiting,) = shown["waiting"]
    assert (waiting["kind"], waiting["model"], waiting["class"], waiting["waiting"]) == ("infer", model, "normal", 1)
    assert shown["pauses"] == []
    assert (shown["quota"]["jobs"], shown["quota"]["backlog"], shown["quota"]["weight"]) == (1, 1, 1)
    (pause,) = client.post("/v1/queue/pause", json={"model": model}).json["data"]
    assert (pause["tenant"], pause["model"]) == (None, model)
    assert pause["actor"].startswith("key ")
    assert client.get("/v1/queue").json["pauses"] == [pause]
    assert client.post("/v1/jobs", json=ask()).status_code == 202, "a paused queue takes submissions"
    assert len(client.post("/v1/queue/pause", json={"tenant": "default"}).json["data"]) == 2
    assert client.post("/v1/queue/resume", json={"tenant": None, "model": model}).json["data"][0]["tenant"] == "default"
    assert client.post("/v1/queue/resume", json={"tenant": "default"}).json["data"] == []


def test_jobs_change_their_class(client: FlaskClient, ask: Callable[..., dict[str, Any]], model: str) -> None:
    ids = [client.post("/v1/jobs", json=ask()).json["id"] for _ in range(3)]
    asked = {"class": "batch", "ids": ids[:1]}
    assert client.post("/v1/queue/reclass", json=asked).json == {"object": "reclass", "changed": 1}
    asked = {"class": "interactive", "from_class": "normal", "model": model}
    assert client.post("/v1/queue/reclass", json=asked).json["changed"] == 2
    waiting = {row["class"]: row["waiting"] for row in client.get("/v1/queue").json["waiting"]}
    assert waiting == {"batch": 1, "interactive": 2}


def test_another_tenant_pauses_only_itself(
    client: FlaskClient, stranger: FlaskClient, ask: Callable[..., dict[str, Any]]
) -> None:
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    (pause,) = stranger.post("/v1/queue/pause", json={}).json["data"]
    assert pause["tenant"] not in (None, "default")
    refused = stranger.post("/v1/queue/pause", json={"tenant": "default"})
    nobodys = stranger.post("/v1/queue/pause", json={"tenant": "nobody"})
    assert (refused.status_code, nobodys.status_code) == (404, 404)
    assert refused.json["error"]["code"] == nobodys.json["error"]["code"] == "tenant_not_found"
    assert stranger.post("/v1/queue/reclass", json={"class": "batch", "ids": [job_id]}).json["changed"] == 0
    assert stranger.post("/v1/queue/reclass", json={"class": "batch"}).json["changed"] == 0
    assert stranger.post("/v1/queue/limits", json={"max_jobs": 9}).status_code == 403
    client.post("/v1/queue/pause", json={"tenant": "default"})
    assert stranger.get("/v1/queue").json["pauses"] == [pause]


@pytest.mark.parametrize("path", ["/v1/queue/pause", "/v1/queue/resume", "/v1/queue/reclass", "/v1/queue/limits"])
def test_only_admins_may(path: str, make_client: Any, context: Any, api_key: str) -> None:
    from batchinfer.services.keys import create_key

    reader = make_client(create_key(context, "reader", ["read", "submit", "cancel"])[1])
    answer = reader.post(path, json={"class": "batch"} if "reclass" in path else {})
    assert (answer.status_code, answer.json["error"]["code"]) == (403, "insufficient_scope")
    assert reader.get("/v1/queue").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("pause", {"modle": "x"}, "modle", "unknown_parameter"),
        ("pause", {"model": 3}, "model", "invalid_type"),
        ("pause", {"model": ""}, "model", "invalid_value"),
        ("pause", [], "body", "invalid_type"),
        ("pause", {"model": "a\0"}, "model", "invalid_characters"),
        ("reclass", {}, "class", "missing_required_parameter"),
        ("reclass", {"class": "urgent"}, "class", "invalid_value"),
        ("reclass", {"class": "batch", "ids": ["x"] * 10_001}, "ids", "invalid_value"),
        ("reclass", {"class": "batch", "ids": "job_"}, "ids", "invalid_type"),
        ("limits", {"weight": 0}, "weight", "invalid_value"),
        ("limits", {"max_jobs": -1}, "max_jobs", "invalid_value"),
        ("limits", {"max_jobs": True}, "max_jobs", "invalid_type"),
    ],
)
def test_what_is_wrong_is_named(client: FlaskClient, path: str, body: Any, param: str, code: str) -> None:
    answer = client.post(f"/v1/queue/{path}", json=body)
    assert (answer.status_code, answer.json["error"]["param"], answer.json["error"]["code"]) == (400, param, code)


def test_no_body_is_all(client: FlaskClient) -> None:
    (pause,) = client.post("/v1/queue/pause").json["data"]
    assert (pause["tenant"], pause["model"]) == (None, None)
    assert client.post("/v1/queue/resume").json["data"] == []
    assert client.post("/v1/queue/reclass", json={"class": "batch", "ids": ["nonsense"]}).status_code == 404
