"""Idempotency-Key: once made, the same request answers with the same thing."""

from __future__ import annotations

import io
import json
import threading
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
