"""Idempotency-Key: once made, the same request answers with the same thing."""

from __future__ import annotations

import io
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient
    from flask_openapi.openapi import OpenAPI


def test_the_same_request_answers_with_the_same_job(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    first = client.post("/v1/jobs", json=ask(), headers={"Idempotency-Key": "k 1"})
    again = client.post("/v1/jobs", json=ask(), headers={"Idempotency-Key": "k 1"})
    other = client.post("/v1/jobs", json=ask(), headers={"Idempotency-Key": "k 2"})
    assert [answer.status_code for answer in (first, again, other)] == [202, 202, 202]
    assert again.json == first.json
    assert again.headers["Location"] == first.headers["Location"]
    assert other.json["id"] != first.json["id"]
    assert [answer.headers.get("Idempotency-Replayed") for answer in (first, again)] == [None, "true"]
    assert len(client.get("/v1/jobs").json["data"]) == 2


def test_another_request_with_the_same_key_is_refused(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    headers = {"Idempotency-Key": "k"}
    assert client.post("/v1/jobs", json=ask(), headers=headers).status_code == 202
    answer = client.post("/v1/jobs", json=ask("other"), headers=headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "idempotency_key_reused")
    assert answer.headers["x-should-retry"] == "false"


def test_forms_count_as_the_same_by_fields_and_bytes(client: FlaskClient, model: str, png: bytes) -> None:
    def send(data: bytes, **fields: str) -> Any:
        body = {"model": model, "prompt": "read", **fields, "file": (io.BytesIO(data), "a.png")}
        return client.post("/v1/jobs", data=body, headers={"Idempotency-Key": "k"})  # a new boundary each time

    first = send(png)
    assert first.status_code == 202
    assert send(png).json["id"] == first.json["id"]
    assert send(png + b"more").status_code == 422
    assert send(png, max_tokens="4").status_code == 422


def test_a_document_is_replayed_as_a_document(client: FlaskClient, model: str) -> None:
    def send() -> Any:
        form = {"model": model, "prompt": "x", "file": (io.BytesIO(b"%PDF-1.7"), "a.pdf")}
        return client.post("/v1/jobs", data=form, headers={"Idempotency-Key": "k"})

    first = send()
    assert send().json == first.json
    assert first.json["object"] == "document"


def test_a_refused_request_uses_up_no_key(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    headers = {"Idempotency-Key": "k"}
    assert client.post("/v1/jobs", json=ask(model="nobody"), headers=headers).status_code == 404
    assert client.post("/v1/jobs", json=ask(), headers=headers).status_code == 202


@pytest.mark.parametrize("key", ["", " ", "a" * 256, "ключ".encode().decode("latin-1"), "tab\tinside"])
def test_a_key_that_is_none(client: FlaskClient, ask: Callable[..., dict[str, Any]], key: str) -> None:
    answer = client.post("/v1/jobs", json=ask(), headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "invalid_idempotency_key")
    assert answer.json["error"]["param"] == "Idempotency-Key"


def test_the_longest_key(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    headers = {"Idempotency-Key": "a" * 255}
    assert client.post("/v1/jobs", json=ask(), headers=headers).status_code == 202


def test_many_at_once_make_one_job(
    app: OpenAPI, client: FlaskClient, api_key: str, ask: Callable[..., dict[str, Any]]
) -> None:
    raw, answers = json.dumps(ask()), []
    barrier = threading.Barrier(6)

    def send() -> None:
        headers = {"Idempotency-Key": "k", "Authorization": f"Bearer {api_key}"}
        barrier.wait(30)
        answers.append(app.test_client().post("/v1/jobs", data=raw, headers=headers, content_type="application/json"))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json["id"] for answer in answers if answer.status_code == 202}) == 1
    assert all(a.headers["x-should-retry"] == "true" for a in answers if a.status_code == 409)
    assert len(client.get("/v1/jobs").json["data"]) == 1


#: POSTs that make nothing: what they do is done once, however often they come.
AS_ONCE = {"cancel", "complete", "release", "pause", "resume", "reclass", "limits", "retention", "revoke", "validate"}


#: What would be touched.
AS_ONCE |= {"count"}

#: POSTs about a webhook endpoint: a change and `enable` are as once, the others are meant anew each time.
AS_ONCE |= {"{endpoint_id}", "enable", "rotate_secret", "test", "redeliver"}

#: What would be done, or is done unless it was: the same schedule, template or text again changes nothing.
AS_ONCE |= {"preview", "apply", "versions"}

#: What is wanted of a model, a host or a replica: wanted twice it is wanted once.
AS_ONCE |= {"ensure", "stop", "drain"}

#: What is made of a run: sealed again, a sample of at least so many pages, a verdict, a golden prompt.
AS_ONCE |= {"seal", "sample", "{job_id}", "golden"}

#: Of models: the same source is the same revision, and files are fetched and taken away once.
AS_ONCE |= {"models", "fetch", "verify", "prune", "plan"}


def test_every_route_that_makes_something_takes_a_key(client: FlaskClient) -> None:
    """Walks the document: a POST either takes a key, in words and in deed, or is as once when it comes twice."""
    posts = {
        path: operations["post"]
        for path, operations in client.get("/openapi.json").json["paths"].items()
        if "post" in operations
    }
    making = {path for path, operation in posts.items() if {"201", "202", "422"} & operation["responses"].keys()}
    assert "/v1/jobs" in making
    assert {path.rsplit("/", 1)[1] for path in posts.keys() - making} <= AS_ONCE
    for path in making:
        assert "Idempotency-Key" in {parameter["name"] for parameter in posts[path].get("parameters", [])}, path
        answer = client.post(path, json={}, headers={"Idempotency-Key": "a" * 256})
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "invalid_idempotency_key"), path


def test_a_new_api_key_of_the_tenant_still_gets_the_replay(
    app: OpenAPI, client: FlaskClient, ask: Callable[..., dict[str, Any]], context: Any
) -> None:
    from batchinfer.services.keys import create_key

    first = client.post("/v1/jobs", json=ask(), headers={"Idempotency-Key": "k"})
    rotated = create_key(context, "rotated", ["submit"])[1]
    headers = {"Idempotency-Key": "k", "Authorization": f"Bearer {rotated}"}
    again = app.test_client().post("/v1/jobs", json=ask(), headers=headers)
    assert (again.status_code, again.json["id"]) == (202, first.json["id"])
    assert again.headers["Idempotency-Replayed"] == "true"


def test_fifty_clients_at_once_make_one_job(
    app: OpenAPI, client: FlaskClient, api_key: str, ask: Callable[..., dict[str, Any]]
) -> None:
    """Each tries again while it is told that the first one is under way, as a client does."""
    raw, ids, refused = json.dumps(ask()), [], []
    barrier = threading.Barrier(50)

    def send() -> None:
        headers = {"Idempotency-Key": "k50", "Authorization": f"Bearer {api_key}"}
        barrier.wait(60)
        for _ in range(60):
            answer = app.test_client().post("/v1/jobs", data=raw, headers=headers, content_type="application/json")
            if answer.status_code == 202:
                ids.append(answer.json["id"])
                return
            refused.append(answer.status_code)
            time.sleep(0.2)

    threads = [threading.Thread(target=send) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(ids) == 50
    assert len(set(ids)) == 1
    assert set(refused) <= {409, 503}
    assert len(client.get("/v1/jobs").json["data"]) == 1
