"""The unmodified `openai` package against a running service: chat completions, streams, responses, models."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from PIL import Image
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterable

#: A prompt whose answer takes so many steps of the fake engine that it is still running when it is cancelled.
LONG = "[[steps:4000]] go on"


def data_url(kind: str, *colours: str) -> str:
    """A PNG, or a PDF with a page a colour."""
    pages = [Image.new("RGB", (32, 32), colour) for colour in colours]
    file = io.BytesIO()
    pages[0].save(file, kind, **({"save_all": True, "append_images": pages[1:]} if kind == "PDF" else {}))
    media_type = {"PNG": "image/png", "PDF": "application/pdf"}[kind]
    return f"data:{media_type};base64,{base64.b64encode(file.getvalue()).decode()}"


def user(*parts: dict[str, Any] | str) -> Iterable[Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]


class Reading(BaseModel):
    """What the fake engine answers."""

    engine: str
    prompt: str
    prompt_sha256: str
    images: list[str]


def test_a_text(client: openai.OpenAI, model: str) -> None:
    made = client.chat.completions.create(model=model, messages=user("hello"), user="me", n=1)
    assert made.object == "chat.completion"
    assert made.id.startswith("chatcmpl-")
    [choice] = made.choices
    assert choice.finish_reason == "stop"
    assert Reading.model_validate_json(choice.message.content or "").prompt == "hello"
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert made.usage.prompt_tokens_details is not None
    assert made.usage.prompt_tokens_details.cached_tokens == 0
    # What came back is what goes in with the next turn.
    turns = [*user("hello"), choice.message.model_dump(), *user("and now?")]
    again = client.chat.completions.create(model=model, messages=turns, max_tokens=3)
    assert (again.choices[0].finish_reason, again.usage and again.usage.completion_tokens) == ("length", 3)


def test_a_picture_and_a_document_of_two_pages(client: openai.OpenAI, model: str) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url("PNG", "red"), "detail": "high"}}
    document = {"type": "file", "file": {"filename": "a.pdf", "file_data": data_url("PDF", "red", "blue")}}
    made = client.chat.completions.create(model=model, messages=user(document, "compare with", picture))
    reading = Reading.model_validate_json(made.choices[0].message.content or "")
    assert len(set(reading.images)) == 3
    assert made.usage is not None
    assert made.usage.prompt_tokens_details is not None
    assert made.usage.prompt_tokens_details.image_tokens == 3 * 64  # type: ignore[attr-defined]


def test_a_stream_with_usage(client: openai.OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=user("hello"))
    chunks = list(
        client.chat.completions.create(
            model=model, messages=user("hello"), stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) >= 2, "the answer came in one piece"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)


def test_a_stream_left_early_leaves_its_place(client: openai.OpenAI, model: str) -> None:
    """Of the four places of this server each is taken and left twice."""
    for _ in range(8):
        stream = client.chat.completions.create(model=model, messages=user("hello"), stream=True)
        assert next(iter(stream)).choices
        stream.close()
    assert client.chat.completions.create(model=model, messages=user("hello")).choices


def test_who_leaves_while_waiting_leaves_the_place_and_keeps_the_job(
    client: openai.OpenAI, service: Any, model: str
) -> None:
    """As many as may wait leave; their jobs would run for minutes yet, and others have their places at once."""
    endless = "[[steps:40000]] wait"
    headers = {"Authorization": f"Bearer {service.key}"}
    for _ in range(4):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{service.url}/v1/chat/completions", headers=headers, timeout=0.5, trust_env=False,
                json={"model": model, "messages": user(endless), "max_tokens": 32000},
            )  # fmt: skip
    patient = client.with_options(max_retries=30)
    assert patient.chat.completions.create(model=model, messages=user("hello")).choices
    live = [
        job["id"]
        for status in ("queued", "running")
        for job in httpx.get(
            f"{service.url}/v1/jobs?limit=100&status={status}", headers=headers, timeout=60, trust_env=False
        ).json()["data"]
    ]
    assert len(live) == 4
    for job_id in live:
        assert client.responses.cancel(job_id.replace("job_", "resp_")).status == "cancelled"


def test_the_asynchronous_client_does_the_same(service: Any, model: str) -> None:
    async def ask() -> None:
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, http_client=http) as client:
            stream = await client.chat.completions.create(model=model, messages=user("hello"), stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert Reading.model_validate_json(text).prompt == "hello"
            made = await client.responses.create(model=model, input="hello")
            assert made.output_text == text

    asyncio.run(ask())


def test_parse(client: openai.OpenAI, model: str) -> None:
    made = client.chat.completions.parse(model=model, messages=user("hello"), response_format=Reading)
    assert made.choices[0].message.parsed is not None
    assert made.choices[0].message.parsed.engine == "fake"


def test_a_response_in_the_background(client: openai.OpenAI, model: str) -> None:
    content = [
        {"type": "input_text", "text": "hello"},
        {"type": "input_image", "image_url": data_url("PNG", "red"), "detail": "auto"},
    ]
    made = client.responses.create(
        model=model, input=[{"role": "user", "content": content}], background=True, metadata={"a": "b"}  # type: ignore[list-item,misc,typeddict-item]
    )  # fmt: skip
    assert made.status in ("queued", "in_progress", "completed")
    deadline = time.monotonic() + 60
    while made.status in ("queued", "in_progress") and time.monotonic() < deadline:
        time.sleep(0.05)
        made = client.responses.retrieve(made.id)
    assert (made.status, made.metadata) == ("completed", {"a": "b"})
    assert len(Reading.model_validate_json(made.output_text).images) == 1
    assert made.usage is not None
    assert made.usage.output_tokens > 0


def test_a_response_that_is_waited_for_and_one_that_is_cut(client: openai.OpenAI, model: str) -> None:
    made = client.responses.parse(model=model, input="hello", instructions="be brief", text_format=Reading)
    assert made.status == "completed"
    assert made.output_parsed is not None
    assert made.output_parsed.prompt == "hello"
    cut = client.responses.create(model=model, input="hello", max_output_tokens=2)
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


def test_a_response_is_cancelled(client: openai.OpenAI, model: str) -> None:
    made = client.responses.create(model=model, input=LONG, background=True, max_output_tokens=4000)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"


def test_errors_are_those_of_the_sdk(client: openai.OpenAI, model: str) -> None:
    ask = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="nobody/nothing", messages=user("hello"))
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert missing.value.request_id
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(model=model, messages=user("hello"), temperature=9)
    assert (wrong.value.code, wrong.value.param, wrong.value.type) == (
        "invalid_value", "temperature", "invalid_request_error",
    )  # fmt: skip
    with pytest.raises(openai.BadRequestError) as picture:
        ask(
            model=model,
            messages=user({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}),
        )
    assert picture.value.param == "messages.0.content.0.image_url.url"
    pages = {"file_data": data_url("PDF", *["red"] * 17)}
    with pytest.raises(openai.BadRequestError) as long:
        ask(model=model, messages=user({"type": "file", "file": pages}))
    assert (long.value.code, long.value.param) == ("too_many_pages", "messages.0.content.0.file.file_data")
    with pytest.raises(openai.InternalServerError) as failed:
        ask(model=model, messages=user("[[fail:broken]]"))
    assert failed.value.code == "broken"
    with pytest.raises(openai.APIError) as late:
        list(ask(model=model, messages=user("[[fail:broken]]"), stream=True))
    assert late.value.code == "broken"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="bi_wrongwrongwrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_nothing")


def test_who_gives_up_first_is_told_the_job_and_does_not_ask_twice(client: openai.OpenAI, model: str) -> None:
    hasty = client.with_options(timeout=2.0, max_retries=2)
    with pytest.raises(openai.InternalServerError) as late:
        hasty.chat.completions.create(model=model, messages=user(LONG), max_tokens=4000)
    assert (late.value.status_code, late.value.code) == (504, "timeout")
    job_id = late.value.body["job_id"]  # type: ignore[index,call-overload]
    assert client.responses.cancel(job_id.replace("job_", "resp_")).status == "cancelled"


def test_the_same_key_is_the_same_answer(client: openai.OpenAI, model: str) -> None:
    ids = {
        client.chat.completions.create(
            model=model, messages=user("once"), extra_headers={"Idempotency-Key": "sdk-1"}
        ).id
        for _ in range(2)
    }
    assert len(ids) == 1


def test_models(client: openai.OpenAI, model: str) -> None:
    assert [found.id for found in client.models.list()] == [model]
    assert client.models.retrieve(model).id == model
