"""Jobs from submission to their end, as a client sees them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient
    from flask_openapi.openapi import OpenAPI


def test_a_finished_job(client: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any) -> None:
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    assert worker.answer_all("the answer") == 1
    job = client.get(f"/v1/jobs/{job_id}").json
    assert job["status"] == "succeeded"
    assert job["result"] == {
        "text": "the answer",
        "finish_reason": "stop",
        "model": "org/reader",
        "revision": "rev1",
        "engine": "fake",
        "confidence": None,
        "versions": None,
    }
    assert job["usage"]["prompt_tokens"] == 3
    assert job["usage"]["total_tokens"] == 5
    assert job["attempts"] == 1
    assert job["crashes"] == 0
    assert job["error"] is None
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    tries = client.get(f"/v1/jobs/{job_id}/attempts").json["data"]
    assert [(t["outcome"], t["worker"]) for t in tries] == [("succeeded", "w1")]


def test_a_wait_ends_with_the_job(
    app: OpenAPI, client: FlaskClient, api_key: str, ask: Callable[..., dict[str, Any]], worker: Any
) -> None:
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    answers: list[Any] = []

    def wait() -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        answers.append(app.test_client().get(f"/v1/jobs/{job_id}?wait=25", headers=headers))

    thread = threading.Thread(target=wait)
    thread.start()
    worker.answer_all()
    thread.join(60)
    assert [answer.json["status"] for answer in answers] == ["succeeded"]


def test_a_wait_that_runs_out_answers_what_is(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    started = time.monotonic()
    answer = client.get(f"/v1/jobs/{job_id}?wait=0.3")
    assert time.monotonic() - started >= 0.3
    assert (answer.status_code, answer.json["status"]) == (200, "queued")


def test_who_finds_no_place_to_wait_is_answered_at_once(
    app: OpenAPI, client: FlaskClient, ask: Callable[..., dict[str, Any]]
) -> None:
    waiters = app.extensions["batchinfer"].waiters
    assert waiters.places == 4
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    entered = [waiters.try_enter() for _ in range(waiters.places)]
    assert [place.__enter__() for place in entered] == [True] * 4
    try:
        # max_wait_s is 25: a place that was found would hold this test until it fails.
        started = time.monotonic()
        assert client.get(f"/v1/jobs/{job_id}?wait=25").json["status"] == "queued"
        assert time.monotonic() - started < 20
    finally:
        for place in entered:
            place.__exit__(None, None, None)
    with waiters.try_enter() as free:
        assert free


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "long", "", "1e400"])
def test_a_wait_that_is_none(client: FlaskClient, ask: Callable[..., dict[str, Any]], wait: str) -> None:
    answer = client.get(f"/v1/jobs/job_{'0' * 32}?wait={wait}")
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "wait")


def test_cancelling(client: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any) -> None:
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    # As OpenAI's SDK sends it: a JSON content type and no body.
    first = client.post(f"/v1/jobs/{job_id}/cancel", content_type="application/json")
    assert (first.status_code, first.json["status"]) == (200, "cancelled")
    again = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (again.status_code, again.json) == (200, first.json)
    assert worker.answer_all() == 0
    done = client.post("/v1/jobs", json=ask()).json["id"]
    worker.answer_all()
    answer = client.post(f"/v1/jobs/{done}/cancel")
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "job_not_cancellable")
    assert answer.headers["x-should-retry"] == "false"


def test_models(client: FlaskClient, model: str) -> None:
    listed = client.get("/v1/models").json
    assert listed["object"] == "list"
    entry = listed["data"][0]
    assert (entry["id"], entry["object"], entry["revision"]) == (model, "model", "rev1")
    assert isinstance(entry["created"], int)
    assert client.get(f"/v1/models/{model}").json == entry
    assert client.get("/v1/models/org%2Freader").json == entry
    missing = client.get("/v1/models/nobody")
    assert (missing.status_code, missing.json["error"]["code"]) == (404, "model_not_found")
    assert client.get("/v1/models/a%00b").status_code == 400


def test_workers_and_overview(client: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any) -> None:
    client.post("/v1/jobs", json=ask() | {"class": "batch"})
    workers = client.get("/v1/workers").json["data"]
    assert [(w["name"], w["role"], w["alive"], w["slots"]) for w in workers] == [("w1", "model", True, 8)]
    numbers = client.get("/v1/overview").json
    assert (numbers["object"], numbers["queued"]) == ("overview", 1)
    assert numbers["waiting"][0]["class"] == "batch"
    assert [w["name"] for w in numbers["workers"]] == ["w1"]
    worker.answer_all()
    numbers = client.get("/v1/overview").json
    assert (numbers["queued"], numbers["succeeded_last_hour"]) == (0, 1)
    assert sum(minute["succeeded"] for minute in numbers["minutes"]) == 1
    assert isinstance(numbers["minutes"][0]["minute"], int)
