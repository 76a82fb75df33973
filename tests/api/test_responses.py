"""Responses over the test client: bodies, states, and the same job under its other names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.api import chat_requests
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.limits import Limits
from batchinfer.domain.responses import parse_response
from batchinfer.errors import BadRequest
from batchinfer.settings import Settings

if TYPE_CHECKING:
    from flask.testing import FlaskClient

RESPONSES = "/v1/responses"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def parse(**fields: Any) -> Any:
    return parse_response({"model": "m", "input": "hi", **fields}, Limits.of(Settings()))


def refused(**fields: Any) -> tuple[str, str | None]:
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    assert "`messages" not in caught.value.message
    return caught.value.code, caught.value.param


def test_a_body_becomes_a_job() -> None:
    content = [
        {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
        {"type": "input_text", "text": "read"},
    ]
    asked = parse(
        input=[{"role": "user", "content": content, "type": "message"}], instructions="be brief", max_output_tokens=7,
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
        background=True, store=True, parallel_tool_calls=True, tools=[], include=[], reasoning=None, stream=False,
    )  # fmt: skip
    job = asked.job
    assert [message["role"] for message in job.messages] == ["system", "user"]
    assert [part["type"] for part in job.messages[1]["content"]] == ["image", "text"]
    assert job.uploads[0].param == "input.0.content.0.image_url"
    assert job.response_format["json_schema"]["name"] == "n"
    assert (job.max_tokens, job.job_class, asked.background) == (7, JobClass.NORMAL, True)
    assert parse().job.job_class is JobClass.INTERACTIVE
    assert parse(background=True, service_tier="flex").job.job_class is JobClass.BATCH


def test_what_is_wrong_is_named_as_it_was_sent() -> None:
    assert refused(stream=True) == ("unsupported_parameter", "stream")
    assert refused(previous_response_id="resp_1") == ("unsupported_parameter", "previous_response_id")
    assert refused(input=None) == ("missing_required_parameter", "input")
    assert refused(input=5) == ("invalid_type", "input")
    assert refused(max_output_tokens=0) == ("invalid_value", "max_output_tokens")
    assert refused(text={"format": {"type": "yaml"}}) == ("invalid_value", "text.format.type")
    picture = {"role": "user", "content": [{"type": "input_image", "image_url": "https://x/y.png"}]}
    where = "input.0.content.0.image_url"
    assert refused(input=[picture], instructions="x") == ("invalid_image_url", where)
    assert refused(input=[{"role": "user", "content": [{"type": "audio"}]}])[1] == "input.0.content.0.type"
    assert refused(input=[{"type": "function_call_output"}]) == ("invalid_value", "input.0.type")


def test_a_background_response_from_queued_to_completed(client: FlaskClient, model: str, worker: Any) -> None:
    asked = {"model": model, "input": "hi", "background": True, "metadata": {"a": "b"}}
    made = client.post(RESPONSES, json=asked, headers={"Idempotency-Key": "k"})
    assert (made.status_code, made.json["status"], made.json["output"]) == (200, "queued", [])
    again = client.post(RESPONSES, json=asked, headers={"Idempotency-Key": "k"})
    assert (again.json["id"], again.headers["Idempotency-Replayed"]) == (made.json["id"], "true")
    worker.answer_all()
    body = client.get(f"{RESPONSES}/{made.json['id']}").json
    assert body["status"] == "completed"
    assert body["output"][0]["content"] == [{"type": "output_text", "text": "done", "annotations": []}]
    assert (body["usage"]["input_tokens"], body["usage"]["output_tokens"], body["usage"]["total_tokens"]) == (3, 2, 5)
    assert body["metadata"] == {"a": "b"}
    assert client.post(f"{RESPONSES}/{body['id']}/cancel").status_code == 409


def test_a_response_is_cancelled_with_an_empty_body(client: FlaskClient, model: str) -> None:
    made = client.post(RESPONSES, json={"model": model, "input": "hi", "background": True}).json
    for _ in range(2):
        answer = client.post(f"{RESPONSES}/{made['id']}/cancel", data=b"", content_type="application/json")
        assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
    job = client.get("/v1/jobs/" + made["id"].replace("resp_", "job_")).json
    assert job["status"] == "cancelled"


def test_who_waits_for_a_response_is_told_the_job(client: FlaskClient, model: str) -> None:
    answer = client.post(RESPONSES, json={"model": model, "input": "x"}, headers={"X-Stainless-Read-Timeout": "0.2"})
    assert (answer.status_code, answer.json["error"]["code"]) == (504, "timeout")
    shown = client.get(f"{RESPONSES}/{answer.json['error']['job_id'].replace('job_', 'resp_')}").json
    assert shown["status"] == "queued"


def test_an_id_that_is_none(client: FlaskClient) -> None:
    assert client.get(f"{RESPONSES}/resp_x").json["error"]["message"].startswith("No response with this id")


def test_the_example_of_the_document_is_accepted(client: FlaskClient, model: str) -> None:
    [example] = chat_requests.RESPONSE_EXAMPLES.values()
    assert client.post(RESPONSES, json={**example, "model": model}).json["status"] == "queued"
