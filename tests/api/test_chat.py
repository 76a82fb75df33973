"""Chat completions over the test client: how a body becomes a job, and how a job's end becomes an answer."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from batchinfer.api import chat_requests
from batchinfer.bus.tokens import Ear, TokenSender
from batchinfer.domain.chat import parse_chat
from batchinfer.domain.ids import JOB, parse_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.limits import Limits
from batchinfer.domain.messages import expand_places
from batchinfer.errors import BadRequest, Failure
from batchinfer.services import answers, jobs, work
from batchinfer.services.context import open_context
from batchinfer.settings import Settings
from batchinfer.store.claims import Ending
from batchinfer.web import create_app

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from batchinfer.services.context import Caller, Context

CHAT = "/v1/chat/completions"
Ask = Callable[..., dict[str, Any]]


@contextmanager
def answering(act: Callable[[], Any]) -> Iterator[None]:
    """Do `act` again and again, as a worker beside the request does, until it did something."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set() and not act():
            over.wait(0.02)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def parse(**fields: Any) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return parse_chat(body, Limits.of(Settings()))


def refused(**fields: Any) -> tuple[str, str | None]:
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    return caught.value.code, caught.value.param


def test_a_body_as_openai_clients_send_it_becomes_a_job() -> None:
    chat = parse(
        user="u1", store=False, parallel_tool_calls=True, tools=[], presence_penalty=0, top_logprobs=0,
        modalities=["text"], tool_choice="auto", prediction=None, max_completion_tokens=9, service_tier="auto",
        messages=[
            {"role": "developer", "content": "be brief", "name": "boss"},
            {"role": "assistant", "content": "ok", "refusal": None, "annotations": [], "tool_calls": None},
            {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]},
        ],
    )  # fmt: skip
    assert [message["role"] for message in chat.job.messages] == ["system", "assistant", "user"]
    assert (chat.job.max_tokens, chat.job.job_class, chat.stream) == (9, JobClass.INTERACTIVE, False)


def test_who_waits_goes_first_unless_he_says_otherwise() -> None:
    tiers = {None: "interactive", "default": "interactive", "priority": "interactive", "flex": "batch"}
    assert {tier: str(parse(service_tier=tier).job.job_class) for tier in tiers} == tiers
    assert parse(**{"class": "normal"}).job.job_class is JobClass.NORMAL


def test_what_would_change_the_answer_is_refused_by_name() -> None:
    changing: dict[str, Any] = {
        "tools": [{"type": "function"}], "functions": [{}], "tool_choice": "required", "audio": {"voice": "x"},
        "modalities": ["text", "audio"], "logit_bias": {"5": 1}, "top_logprobs": 3, "frequency_penalty": 0.5,
    }  # fmt: skip
    for name, value in changing.items():
        assert refused(**{name: value}) == ("unsupported_parameter", name)
    assert refused(n=2) == ("invalid_value", "n")
    assert refused(stream_options={"include_usage": True}) == ("invalid_value", "stream_options")
    assert refused(stream="yes") == ("invalid_type", "stream")
    called = [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]
    assert refused(messages=called) == ("unknown_parameter", "messages.0.tool_calls")
    assert refused(messages="hi") == ("invalid_type", "messages")
    assert refused(messages=None) == ("missing_required_parameter", "messages")


def test_an_answer_with_everything(client: FlaskClient, ask: Ask, worker: Any) -> None:
    with answering(worker.answer_all):
        answer = client.post(CHAT, json=ask(metadata={"a": "b"}))
    assert answer.status_code == 200
    body = answer.json
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "done", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    details = {"image_tokens": 0, "cached_tokens": 0}
    assert body["usage"] == {
        "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": details
    }  # fmt: skip
    job = client.get("/v1/jobs/" + body["id"].replace("chatcmpl-", "job_")).json
    assert (job["status"], job["result"]["text"], job["metadata"]) == ("succeeded", "done", {"a": "b"})


def test_a_retry_with_the_same_key_is_the_same_job(client: FlaskClient, ask: Ask, worker: Any) -> None:
    headers = {"Idempotency-Key": "k"}
    with answering(worker.answer_all):
        first = client.post(CHAT, json=ask(), headers=headers)
    again = client.post(CHAT, json=ask(), headers=headers)
    assert again.json == first.json
    assert again.headers["Idempotency-Replayed"] == "true"
    assert client.post(CHAT, json=ask("other"), headers=headers).json["error"]["code"] == "idempotency_key_reused"
    assert len(client.get("/v1/jobs").json["data"]) == 1


def test_who_waited_long_enough_is_told_the_job(client: FlaskClient, ask: Ask, worker: Any) -> None:
    answer = client.post(CHAT, json=ask(), headers={"X-Stainless-Read-Timeout": "0.4"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (504, "false")
    assert answer.json["error"]["code"] == "timeout"
    worker.answer_all()
    assert client.get(f"/v1/jobs/{answer.json['error']['job_id']}").json["status"] == "succeeded"


def test_how_a_job_ended_is_the_status(
    client: FlaskClient, ask: Ask, worker: Any, context: Context, caller: Caller
) -> None:
    def end(error: dict[str, Any]) -> Callable[[], bool]:
        def act() -> bool:
            claims = work.claim(context, lease_id=worker.lease_id, kinds=[work.INFER], model="org/reader", limit=9)
            endings = [Ending(claim.id, claim.attempt, error) for claim in claims]
            return bool(endings and work.fail(context, worker.lease_id, endings).failed)

        return act

    def cancel() -> bool:
        live = [job for job in jobs.list_jobs(context, caller).data if job.finished_at is None]
        return bool([jobs.cancel_job(context, caller, job.id) for job in live])

    wrong = BadRequest("Too long.", code="context_length_exceeded", param="messages").as_dict()
    cases = [
        (end(wrong), 400, "context_length_exceeded"),
        (end(Failure("Broken.", code="generation_failed").as_dict()), 500, "generation_failed"),
        (cancel, 409, "job_cancelled"),
    ]
    for act, status, code in cases:
        with answering(act):
            answer = client.post(CHAT, json=ask(code))
        assert (answer.status_code, answer.json["error"]["code"]) == (status, code)
        assert answer.headers["x-should-retry"] == "false"
        assert answer.json["error"]["job_id"].startswith("job_")


def test_where_all_places_are_taken_nothing_is_made(client: FlaskClient, ask: Ask, app: Any) -> None:
    waiters = app.extensions["batchinfer"].waiters
    with ExitStack() as stack:
        assert all(stack.enter_context(waiters.try_enter()) for _ in range(waiters.places))
        for more in ({}, {"stream": True}):
            answer = client.post(CHAT, json=ask(**more))
            assert (answer.status_code, answer.json["error"]["code"]) == (503, "too_many_waiting")
            assert (answer.headers["Retry-After"], answer.headers["x-should-retry"]) == ("2", "true")
    assert client.get("/v1/jobs").json["data"] == []


def events(text: str) -> list[Any]:
    found = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    return [json.loads(one) if one != "[DONE]" else one for one in found]


def test_a_stream_tells_the_pieces_and_the_rest_from_the_database(
    client: FlaskClient, ask: Ask, worker: Any, context: Context, caller: Caller
) -> None:
    sender, over = TokenSender(context.redis), threading.Event()

    def tell_and_answer() -> bool:
        """A worker that tells the first half, and answers once that was heard."""
        found = jobs.list_jobs(context, caller).data
        if not found:
            return False
        tell = sender.open(found[0].prompt["channel"], 1)
        for piece in ("do", "ne"):
            tell(piece)
        over.wait(1.0)
        return bool(worker.answer_all("done and more"))

    with answering(tell_and_answer):
        answer = client.post(CHAT, json=ask(stream=True, stream_options={"include_usage": True}))
    text = answer.get_data(as_text=True)
    sender.close()
    assert (answer.status_code, answer.mimetype) == (200, "text/event-stream")
    *chunks, usage, done = events(text)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["done", " and more", None]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 5)
    # The place is free again.
    assert client.application.extensions["batchinfer"].waiters._free._value >= 4


def test_without_redis_a_stream_is_one_piece(
    settings: Settings, api_key: str, model: str, ask: Ask, worker: Any
) -> None:
    """What is lost with Redis is the pieces alone."""
    lost = open_context(settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1")}))
    client = create_app(context=lost).test_client()
    with answering(worker.answer_all):
        answer = client.post(CHAT, json=ask(stream=True), headers={"Authorization": f"Bearer {api_key}"})
        *chunks, done = events(answer.get_data(as_text=True))
    lost.close()
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["done", None]


def test_a_stream_that_fails_at_once_has_a_status_and_later_an_event(
    client: FlaskClient, ask: Ask, context: Context, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel() -> bool:
        live = [job for job in jobs.list_jobs(context, caller).data if job.finished_at is None]
        return bool([jobs.cancel_job(context, caller, job.id) for job in live])

    with answering(cancel):
        answer = client.post(CHAT, json=ask(stream=True))
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "job_cancelled")
    monkeypatch.setattr(answers, "KEEP_ALIVE_S", 0.0)
    answer = client.post(CHAT, json=ask(stream=True))
    assert answer.status_code == 200
    with answering(cancel):
        text = answer.get_data(as_text=True)
    assert text.startswith(": keep-alive\n\n")
    assert "[DONE]" not in text
    [error] = events(text)
    assert error["error"]["code"] == "job_cancelled"


def test_another_try_with_another_answer_ends_a_stream_with_an_error(
    client: FlaskClient, ask: Ask, worker: Any, context: Context, caller: Caller
) -> None:
    request = parse_chat(ask(stream=True), Limits.of(context.settings)).job
    with answers.listening(context, request) as (channelled, ear):
        job, _ = answers.submit(context, caller, channelled)
        ear.hear(1, 0, "some")
        pieces = answers.follow_answer(context, caller, job.id, 30, ear)
        assert next(pieces) == "some"
        ear.hear(2, 0, "other")
        worker.answer_all("other")
        with pytest.raises(answers.Internal) as caught:
            next(pieces)
    assert (caught.value.code, caught.value.job_id) == ("stream_diverged", "job_" + job.id.hex)


def test_an_ear_hears_each_character_once() -> None:
    ear = Ear()
    for attempt, at, text in [
        (1, 0, "ab"),
        (1, 0, "ab"),
        (1, 3, "x"),
        (1, 2, "c"),
        (2, 1, "q"),
        (2, 0, "abcd"),
        (1, 3, "z"),
    ]:
        ear.hear(attempt, at, text)
    assert ear.find_more("") == "abcd"
    assert ear.find_more("abc") == "d"
    assert ear.find_more("abx") == ""


def test_a_document_is_all_its_pages_in_one_prompt(
    client: FlaskClient, model: str, context: Context, caller: Caller, png: bytes
) -> None:
    def url(data: bytes, kind: str) -> str:
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"

    parts = [
        {"type": "image_url", "image_url": {"url": url(png, "image/png")}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": url(b"%PDF-1.7", "application/pdf")}},
        {"type": "text", "text": "compare"},
    ]
    body = {"model": model, "messages": [{"role": "user", "content": parts}]}
    answer = client.post(CHAT, json=body, headers={"X-Stainless-Read-Timeout": "0.2"})
    job = jobs.get_job(context, caller, parse_id(JOB, answer.json["error"]["job_id"]))
    assert [image["media_type"] for image in job.prompt["images"]] == ["image/png", "application/pdf"]
    assert client.get("/v1/documents").json["data"] == []
    parts[1]["file"]["file_data"] = url(b"plain text", "application/pdf")
    assert client.post(CHAT, json=body).status_code == 415


def test_pages_stand_where_their_document_stood() -> None:
    def place(index: int) -> dict[str, Any]:
        return {"type": "image", "index": index}

    said = {"type": "text", "text": "and"}
    messages = [{"role": "user", "content": [place(1), said, place(0)]}]
    images = [{"upload": 0}, {"upload": 1, "page": 1}, {"upload": 1, "page": 2}]
    [message] = expand_places(messages, images)
    assert message == {"role": "user", "content": [place(1), place(2), said, place(0)]}
    assert expand_places(messages, [{}, {}]) == messages


def test_the_example_of_the_document_is_accepted(client: FlaskClient, model: str, worker: Any) -> None:
    [example] = chat_requests.CHAT_EXAMPLES.values()
    with answering(worker.answer_all):
        assert client.post(CHAT, json={**example, "model": model}).status_code == 200
