"""Files and batches as OpenAI's unmodified SDK makes, waits for, lists and cancels them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import jsonschema
import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

#: Of a batch, and of a wait for one.
PATIENCE_S = 120.0
ENDED = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture(scope="module")
def line_schema(service: Any) -> dict[str, Any]:
    """What the document says of a line of an output or error file."""
    document = httpx.get(f"{service.url}/openapi.json", trust_env=False).json()
    found: dict[str, Any] = document["components"]["schemas"]["BatchOutputLine"]
    return found


def write_lines(model: str, *texts: str, **more: Any) -> bytes:
    lines = [
        {
            "custom_id": f"page-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": [{"role": "user", "content": text}], **more},
        }
        for number, text in enumerate(texts, 1)
    ]
    return b"\n".join(json.dumps(line).encode() for line in lines)


def create(client: openai.OpenAI, lines: bytes, **more: Any) -> Any:
    file = client.files.create(file=lines, purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **more
    )


def wait_for(
    client: openai.OpenAI, batch: Any, seen: Callable[[Any], bool] = lambda batch: batch.status in ENDED
) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not seen(batch):
        assert time.monotonic() < until, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
        assert batch.request_counts is not None
    return batch


def read(client: openai.OpenAI, file_id: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The lines of an output or error file by custom_id; each fits its schema."""
    lines = [json.loads(line) for line in client.files.content(file_id).content.splitlines()]
    for line in lines:
        jsonschema.validate(line, schema)
    return {line["custom_id"]: line for line in lines}


def test_a_file_with_an_expiry_and_one_of_bare_bytes(client: openai.OpenAI) -> None:
    named = client.files.create(
        file=("in.jsonl", b"{}"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert named.expires_at is not None
    assert (named.filename, named.expires_at - named.created_at) == ("in.jsonl", 7200)
    bare = client.files.create(file=b"{}", purpose="user_data")
    assert (bare.filename, bare.bytes) == ("upload", 2)
    assert client.files.wait_for_processing(bare.id).status == "processed"
    assert bare.id in {file.id for file in client.files.list(purpose="user_data")}
    assert client.files.delete(bare.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(bare.id)


def test_a_batch_from_validating_to_completed(client: openai.OpenAI, model: str, line_schema: dict[str, Any]) -> None:
    batch = create(client, write_lines(model, "one", "two"), metadata={"night": "1"})
    assert batch.status in {"validating", "in_progress"}  # a worker may be quicker than the answer
    assert (batch.object, batch.metadata) == ("batch", {"night": "1"})
    assert batch.request_counts.failed == 0
    batch = wait_for(client, batch)
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (2, 2, 0)
    assert batch.error_file_id is None
    usage = batch.usage if isinstance(batch.usage, dict) else batch.usage.model_dump()  # 1.x does not type it
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    found = read(client, batch.output_file_id, line_schema)
    assert set(found) == {"page-1", "page-2"}
    assert found["page-1"]["response"]["body"]["choices"][0]["message"]["content"]
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"


def test_a_batch_whose_every_line_fails_is_completed(
    client: openai.OpenAI, model: str, line_schema: dict[str, Any]
) -> None:
    batch = wait_for(client, create(client, write_lines(model, "[[fail:context_length_exceeded]]")))
    assert (batch.status, batch.output_file_id, batch.request_counts.failed) == ("completed", None, 1)
    line = read(client, batch.error_file_id, line_schema)["page-1"]
    assert line["response"]["status_code"] >= 400
    assert line["response"]["body"]["error"]["code"] == "context_length_exceeded"


def test_a_bad_file_is_told_by_the_batch_line_by_line(client: openai.OpenAI, model: str) -> None:
    line = write_lines(model, "one")
    batch = wait_for(client, create(client, line + b"\n\n" + line))
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    (fault,) = batch.errors.data
    assert (fault.code, fault.line, fault.param) == ("duplicate_custom_id", 3, "custom_id")


def test_a_batch_that_is_cancelled_half_way_keeps_what_it_has(
    client: openai.OpenAI, model: str, line_schema: dict[str, Any]
) -> None:
    slow = ["[[steps:20000]] slow"] * 3
    batch = create(client, write_lines(model, "quick", *slow, max_tokens=30_000))
    batch = wait_for(client, batch, lambda batch: batch.request_counts.completed == 1)
    first, again = client.batches.cancel(batch.id), client.batches.cancel(batch.id)
    assert {first.status, again.status} <= {"cancelling", "cancelled"}
    batch = wait_for(client, again)
    assert (batch.status, batch.request_counts.completed) == ("cancelled", 1)
    assert set(read(client, batch.output_file_id, line_schema)) == {"page-1"}
    undone = read(client, batch.error_file_id, line_schema)
    assert {line["error"]["code"] for line in undone.values()} == {"batch_cancelled"}
    assert set(undone) == {"page-2", "page-3", "page-4"}


def test_pages_bring_each_batch_once(client: openai.OpenAI, model: str) -> None:
    made = [create(client, write_lines(model, "x")).id for _ in range(5)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert len(listed) == len(set(listed))
    assert [batch_id for batch_id in listed if batch_id in made] == made[::-1]


def test_the_asynchronous_client_does_the_same(service: Any, model: str) -> None:
    async def run() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key) as client:
            file = await client.files.create(file=write_lines(model, "one"), purpose="batch")
            batch = await client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            listed = [one.id async for one in client.batches.list(limit=1)]
            assert batch.id in listed
            return await client.batches.retrieve(batch.id)

    assert asyncio.run(run()).status in {"validating", "in_progress", "finalizing", "completed"}


def test_over_its_rate_the_sdk_waits_as_told_and_says_why(service: Any) -> None:
    """A wait over two minutes would be none at all: the SDK would give up at once."""
    admin = httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {service.key}"}, trust_env=False)
    wanted = {"name": "slow", "scopes": ["read"], "requests_per_minute": 1}
    slow = admin.post("/v1/keys", json=wanted).json()["key"]
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=slow, max_retries=0)
    client.models.list()
    with pytest.raises(openai.RateLimitError) as refused:
        client.models.list()
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.request_id
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 120
    assert refused.value.response.headers["x-should-retry"] == "true"
    admin.close()
