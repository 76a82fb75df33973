"""OpenAI's SDK manages webhook endpoints and accepts what a real CPU worker delivers to a real server."""

from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING, Any

import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 60.0


def wait(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    pytest.fail(f"not within {PATIENCE_S} s: {what}")


@pytest.fixture
def webhooks(client: openai.OpenAI) -> Iterator[Any]:
    """The SDK's resource; whatever was made is deleted. The SDK's first major version has none."""
    if not hasattr(client.webhooks, "create"):
        pytest.skip("this release of the SDK knows no webhook endpoints")
    yield client.webhooks
    for endpoint in client.webhooks.list():
        client.webhooks.delete(endpoint.id)


def test_events_of_a_batch_and_of_responses_are_unwrapped(
    client: openai.OpenAI, webhooks: Any, receiver: Any, model: str
) -> None:
    types = ["batch.completed", "response.completed", "response.cancelled"]
    endpoint = webhooks.create(name="mine", url=receiver.url, event_types=types)
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = client.files.create(file=("in.jsonl", io.BytesIO(json.dumps(line).encode())), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    response = client.responses.create(model=model, input="hello", background=True)
    wait(lambda: len(receiver.taken) == 2, "two events are delivered")
    events = [client.webhooks.unwrap(raw, headers, secret=endpoint.signing_secret) for headers, raw in receiver.taken]
    assert {(event.type, event.data.id) for event in events} == {
        ("batch.completed", batch.id), ("response.completed", response.id),
    }  # fmt: skip
    assert client.batches.retrieve(batch.id).status == "completed"
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(receiver.taken[0][1], receiver.taken[0][0], secret="whsec_" + "A" * 44)


def test_endpoints_are_made_read_changed_and_deleted(webhooks: Any) -> None:
    made = webhooks.create(name="mine", url="https://example.com/a", event_types=["batch.failed"])
    assert made.signing_secret.startswith("whsec_")
    changed = webhooks.update(made.id, name="other", event_types=["batch.failed", "batch.expired"])
    assert (changed.name, changed.event_types, changed.url) == ("other", ["batch.failed", "batch.expired"], made.url)
    assert webhooks.retrieve(made.id) == changed
    second = webhooks.create(name="second", url="https://example.com/b", event_types=["batch.failed"])
    assert [endpoint.id for endpoint in webhooks.list(limit=1)] == [second.id, made.id]
    assert "batch.completed" in webhooks.event_types.list().data
    assert webhooks.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        webhooks.retrieve(made.id)
    with pytest.raises(openai.BadRequestError) as caught:
        webhooks.create(name="inside", url="https://10.0.0.1/", event_types=["batch.failed"])
    assert (caught.value.code, caught.value.param) == ("url_not_allowed", "url")


def test_a_test_event_answers_the_receivers_status_and_after_a_rotation_both_secrets_sign(
    client: openai.OpenAI, webhooks: Any, receiver: Any
) -> None:
    endpoint = webhooks.create(name="mine", url=receiver.url, event_types=["batch.failed"])
    rotated = webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=True)
    assert rotated.signing_secret != endpoint.signing_secret
    receiver.statuses = [202, 500]
    answer = webhooks.test(endpoint.id, event_type="batch.completed")
    assert (answer.status_code, answer.event_type, answer.webhook_endpoint_id, answer.success) == (
        202, "batch.completed", endpoint.id, True,
    )  # fmt: skip
    ((headers, raw),) = receiver.taken
    for secret in (endpoint.signing_secret, rotated.signing_secret):
        assert client.webhooks.unwrap(raw, headers, secret=secret).type == "batch.completed"
    assert webhooks.test(endpoint.id, event_type="batch.failed").status_code == 500
    assert webhooks.retrieve(endpoint.id).batchinfer["failures"] == 0, "a test says nothing of how it fares"


def test_a_receiver_that_is_not_there_is_told_apart_from_one_that_answers(webhooks: Any, receiver: Any) -> None:
    receiver.behave = lambda line: line.sendall(b"garbage\r\n\r\n")
    endpoint = webhooks.create(name="mine", url=receiver.url, event_types=["batch.failed"])
    with pytest.raises(openai.BadRequestError) as caught:
        webhooks.test(endpoint.id, event_type="batch.failed")
    assert caught.value.code == "webhook_not_reached"
    assert "not HTTP" in caught.value.message
