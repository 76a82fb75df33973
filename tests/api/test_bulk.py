"""Lines as the body of a request: a batch whose file came with it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.services import work
from batchinfer.web import create_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

NDJSON = "application/x-ndjson"


def write(rows: list[Any]) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def post(client: FlaskClient, rows: list[Any], query: str = "", **headers: str) -> Any:
    return client.post(f"/v1/batches{query}", data=write(rows), content_type=NDJSON, headers=headers)


def read_file(client: FlaskClient, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(row) for row in client.get(f"/v1/files/{file_id}/content").data.splitlines()]


def test_bodies_of_jobs_become_jobs_and_their_answers_a_file(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any, cpu: Any
) -> None:
    rows = [{"custom_id": "a", **ask("one")}, b"", {**ask("two"), "metadata": {"k": "v"}, "class": "interactive"}]
    made = post(client, rows, '?priority=normal&completion_window=2h&metadata={"run":"7"}&output_expires_s=3600')
    assert made.status_code == 200
    batch = made.json
    assert (batch["status"], batch["endpoint"], batch["metadata"]) == ("validating", "/v1/jobs", {"run": "7"})
    assert batch["expires_at"] - batch["created_at"] == 7200
    assert client.get(f"/v1/files/{batch['input_file_id']}/content").data == write(rows)
    assert cpu.work_on(work.READ) == 1
    jobs = client.get("/v1/jobs").json["data"]
    assert len(jobs) == 2
    assert worker.answer_all("done") == 2
    assert cpu.work_on(work.EXPORT) == 1
    done = client.get(f"/v1/batches/{batch['id']}").json
    assert (done["status"], done["request_counts"]["completed"], done["error_file_id"]) == ("completed", 2, None)
    first, second = read_file(client, done["output_file_id"])
    assert (first["custom_id"], second["custom_id"]) == ("a", "line-3"), "a line without a name is named by its place"
    for line in (first, second):
        told = line["response"]["body"]
        job = client.get(f"/v1/jobs/{told['id']}").json
        assert told == {name: job[name] for name in told}, "as the job itself is read"
        assert told["result"]["text"] == "done"
    assert second["response"]["body"]["metadata"] == {"k": "v"}


def test_lines_may_be_what_openai_writes(client: FlaskClient, ask: Callable[..., dict[str, Any]], cpu: Any) -> None:
    chat = "/v1/chat/completions"
    row = {"custom_id": "a", "method": "POST", "url": chat, "body": ask()}
    batch = post(client, [row], f"?endpoint={chat}").json
    cpu.work_on(work.READ)
    assert client.get(f"/v1/batches/{batch['id']}").json["status"] == "in_progress"


def test_all_or_nothing_and_every_bad_line_is_told(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], cpu: Any
) -> None:
    rows = [
        ask(), b"{nope", {**ask(), "temperature": 9}, {**ask(), "model": "nobody"}, {**ask(), "stream": True},
        {**ask(), "custom_id": "line-1"}, {**ask(), "colour": 1}, b"[]", {**ask(), "custom_id": 7},
    ]  # fmt: skip
    batch = post(client, rows).json
    cpu.work_on(work.READ)
    found = client.get(f"/v1/batches/{batch['id']}").json
    assert found["status"] == "failed"
    assert [(fault["line"], fault["code"], fault["param"]) for fault in found["errors"]["data"]] == [
        (2, "invalid_json_line", None), (3, "invalid_value", "temperature"), (4, "model_not_found", "model"),
        (5, "invalid_value", "stream"), (6, "duplicate_custom_id", "custom_id"), (7, "unknown_parameter", "colour"),
        (8, "invalid_json_line", None), (9, "invalid_type", "custom_id"),
    ]  # fmt: skip
    assert client.get("/v1/jobs").json["data"] == []


def test_the_same_key_answers_the_same_batch(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    key = {"Idempotency-Key": "once"}
    first, again = post(client, [ask()], **key), post(client, [ask()], **key)
    assert first.json["id"] == again.json["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert post(client, [ask("other")], **key).json["error"]["code"] == "idempotency_key_reused"
    assert post(client, [ask()], "?priority=high", **key).status_code == 422
    assert len(client.get("/v1/files").json["data"]) == 1
    assert post(client, [ask()], **{"Idempotency-Key": "é"}).json["error"]["code"] == "invalid_idempotency_key"


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("?endpoint=/v1/embeddings", "endpoint"),
        ("?completion_window=soon", "completion_window"),
        ("?priority=top", "batchinfer.priority"),
        ("?metadata=7", "metadata"),
        ("?metadata={", "metadata"),
        ('?metadata={"a":1}', "metadata.a"),
        ("?output_expires_s=1", "output_expires_after.seconds"),
        ("?output_expires_s=x", "output_expires_s"),
        ("?colour=1", "colour"),
    ],
)
def test_a_bad_option_is_named(client: FlaskClient, query: str, param: str) -> None:
    answer = post(client, [], query)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)
    assert client.get("/v1/batches").json["data"] == []


def test_options_of_a_json_body_stand_in_it(client: FlaskClient) -> None:
    answer = client.post("/v1/batches?priority=low", json={})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "priority")


def test_lines_over_the_limit_make_nothing(
    context: Context, api_key: str, model: str, ask: Callable[..., dict[str, Any]]
) -> None:
    small = replace(context, settings=context.settings.model_copy(update={"max_batch_bytes": 100}))
    client = create_app(context=small).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {api_key}"
    answer = post(client, [ask(), ask()])
    assert (answer.status_code, answer.json["error"]["code"]) == (413, "file_too_large")
    assert client.get("/v1/files").json["data"] == client.get("/v1/batches").json["data"] == []
    assert not [file for file in context.settings.blobs_dir.rglob("*") if file.is_file()]


def test_it_needs_the_scope_before_it_takes_a_byte(
    make_client: Callable[[str | None], FlaskClient], context: Context, api_key: str
) -> None:
    from batchinfer.services import keys

    client = make_client(keys.create_key(context, "reader", ["read"])[1])
    assert post(client, [b"x" * 1000]).json["error"]["code"] == "insufficient_scope"
    assert not context.settings.blobs_dir.exists()
