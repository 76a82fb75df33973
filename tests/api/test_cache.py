"""`cache` over HTTP: jobs, chat completions, responses and batches say that an answer was kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.services import work

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient


def test_every_view_of_a_job_says_that_its_answer_was_kept(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any
) -> None:
    first = client.post("/v1/jobs", json=ask(cache="reuse")).json
    assert (first["status"], first["cached"]) == ("queued", False)
    worker.answer_all("kept")
    again = client.post("/v1/jobs", json=ask(cache="reuse"))
    assert again.status_code == 202
    assert (again.json["status"], again.json["cached"], again.json["result"]["text"]) == ("succeeded", True, "kept")
    assert again.json["usage"]["total_tokens"] == 0
    chat = client.post("/v1/chat/completions", json=ask(cache="reuse")).json
    assert (chat["choices"][0]["message"]["content"], chat["batchinfer"]) == ("kept", {"cached": True})
    assert chat["usage"]["total_tokens"] == 0
    asked = {"model": first["model"], "input": "hello", "background": True, "cache": "reuse"}
    response = client.post("/v1/responses", json=asked).json
    assert (response["status"], response["batchinfer"]) == ("completed", {"cached": True})
    streamed = client.post("/v1/chat/completions", json=ask(cache="reuse", stream=True)).get_data(as_text=True)
    assert "kept" in streamed
    assert streamed.rstrip().endswith("[DONE]")
    (minute,) = client.get("/v1/overview").json["minutes"][-1:]
    assert minute["reused"] >= 1
    form = {"model": first["model"], "prompt": "x", "file": (b"", "x")}
    assert client.post("/v1/jobs", data={**form, "cache": "never"}).json["error"]["param"] == "cache"


def test_a_batch_takes_over_what_is_kept_and_counts_it(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any, cpu: Any
) -> None:
    client.post("/v1/jobs", json=ask(cache="refresh"))
    worker.answer_all("kept")
    lines = "".join(json.dumps(row) + "\n" for row in (ask(), ask("new"), ask(cache="off")))
    made = client.post("/v1/batches?cache=reuse", data=lines, content_type="application/x-ndjson").json
    cpu.work_on(work.READ)
    assert worker.answer_all("asked") == 2
    cpu.work_on(work.EXPORT)
    done = client.get(f"/v1/batches/{made['id']}").json
    assert (done["request_counts"]["completed"], done["batchinfer"]["cache_hits"]) == (3, 1)
    rows = client.get(f"/v1/files/{done['output_file_id']}/content").data.splitlines()
    bodies = [json.loads(row)["response"]["body"] for row in rows]
    assert [(body["cached"], body["result"]["text"]) for body in bodies] == [
        (True, "kept"), (False, "asked"), (False, "asked")
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["always", 1, True, {}])
def test_a_bad_word_is_named(client: FlaskClient, ask: Callable[..., dict[str, Any]], value: Any) -> None:
    answer = client.post("/v1/jobs", json=ask(cache=value))
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "cache")
    batch = {"input_file_id": "file-1", "endpoint": "/v1/jobs", "completion_window": "24h"}
    refused = client.post("/v1/batches", json={**batch, "batchinfer": {"cache": value}})
    assert refused.json["error"]["param"] == "batchinfer.cache"
