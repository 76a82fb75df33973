"""Batches over HTTP: what OpenAI's SDK sends, and what it reads back."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.services import exporting, reading, work

if TYPE_CHECKING:
    from pathlib import Path

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

CHAT = "/v1/chat/completions"


def upload(client: FlaskClient, lines: list[dict[str, Any]], purpose: str = "batch") -> str:
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    form = {"purpose": purpose, "file": (io.BytesIO(data), "in.jsonl")}
    return str(client.post("/v1/files", data=form).json["id"])


def create(client: FlaskClient, file_id: str, **more: Any) -> Any:
    headers = more.pop("headers", {})
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **more}
    return client.post("/v1/batches", json=body, headers=headers)


def work_on(ctx: Context, kind: str, scratch: Path) -> None:
    """What a CPU worker does with what is ready of this kind."""
    lease_id = work.open_lease(ctx, role="cpu", worker="cpu", host="here", pid=1)
    for claim in work.claim(ctx, lease_id=lease_id, kinds=[kind], model=None, limit=9):
        if kind == work.READ:
            assert reading.read_batch(ctx, claim, lambda action: action(), lambda: True)
        else:
            assert exporting.export_batch(ctx, claim, scratch, lambda action: action(), lambda: True)


def test_a_batch_from_file_to_file(
    client: FlaskClient, context: Context, worker: Any, model: str, tmp_path: Path
) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    lines = [{"custom_id": name, "method": "POST", "url": CHAT, "body": body} for name in ("a", "b")]
    made = create(client, upload(client, lines), metadata={"run": "1"}, batchinfer={"priority": "high"})
    assert made.status_code == 200
    batch = made.json
    assert (batch["object"], batch["status"], batch["endpoint"]) == ("batch", "validating", CHAT)
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert (batch["errors"], batch["usage"], batch["output_file_id"]) == (None, None, None)
    assert batch["expires_at"] - batch["created_at"] == 86_400
    assert batch["batchinfer"] == {
        "priority": "high", "class": "interactive", "expired": 0, "cancelled": 0, "parent_id": None, "merged": 0,
        "cache_hits": 0,
        "paused_at": None,
    }  # fmt: skip
    work_on(context, work.READ, tmp_path)
    running = client.get(f"/v1/batches/{batch['id']}").json
    assert (running["status"], running["request_counts"]["total"]) == ("in_progress", 2)
    assert worker.answer_all("done") == 2
    assert client.get(f"/v1/batches/{batch['id']}").json["status"] == "finalizing"
    work_on(context, work.EXPORT, tmp_path)
    done = client.get(f"/v1/batches/{batch['id']}").json
    assert (done["status"], done["model"], done["metadata"]) == ("completed", model, {"run": "1"})
    assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert (done["usage"]["input_tokens"], done["usage"]["total_tokens"]) == (6, 10)
    assert done["error_file_id"] is None
    rows = [json.loads(row) for row in client.get(f"/v1/files/{done['output_file_id']}/content").data.splitlines()]
    assert [row["custom_id"] for row in rows] == ["a", "b"]
    assert rows[0]["response"]["body"]["object"] == "chat.completion"
    assert client.post(f"/v1/batches/{batch['id']}/cancel").json["error"]["code"] == "batch_not_cancellable"


def test_a_bad_file_is_told_by_the_batch(client: FlaskClient, context: Context, tmp_path: Path) -> None:
    batch = create(client, upload(client, [{"custom_id": "a"}])).json
    work_on(context, work.READ, tmp_path)
    found = client.get(f"/v1/batches/{batch['id']}").json
    assert found["status"] == "failed"
    assert found["errors"]["object"] == "list"
    (fault,) = found["errors"]["data"]
    assert (fault["line"], fault["code"], fault["param"]) == (1, "invalid_method", "method")
    assert (found["failed_at"] is None, found["output_file_id"]) == (False, None)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"completion_window": None}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"batchinfer": {"priority": "top"}}, "batchinfer.priority"),
        ({"batchinfer": {"colour": 1}}, "batchinfer.colour"),
        ({"priority": "low"}, "priority"),
    ],
)
def test_a_bad_field_is_named(client: FlaskClient, change: dict[str, Any], param: str) -> None:
    answer = create(client, upload(client, []), **change)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)


def test_the_file_must_be_there_and_be_for_batches(client: FlaskClient, stranger: FlaskClient) -> None:
    other = create(client, upload(client, [], "user_data"))
    assert (other.status_code, other.json["error"]["code"]) == (400, "invalid_file_purpose")
    assert create(client, "file-" + "0" * 32).json["error"]["code"] == "file_not_found"
    assert create(stranger, upload(client, [])).status_code == 404
    assert create(client, "nothing").status_code == 404


def test_cancel_has_an_empty_body_and_twice_is_as_once(client: FlaskClient) -> None:
    batch = create(client, upload(client, [])).json
    path = f"/v1/batches/{batch['id']}/cancel"
    first = client.post(path, data=b"", content_type="application/json")
    assert (first.status_code, first.json["status"]) == (200, "cancelled")
    assert client.post(path, data=b"", content_type="application/json").json == first.json


def test_pause_resume_and_class_are_shown(client: FlaskClient, context: Context, model: str, tmp_path: Path) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "a"}]}
    line = {"custom_id": "a", "method": "POST", "url": CHAT, "body": body}
    path = f"/v1/batches/{create(client, upload(client, [line])).json['id']}"
    assert client.get(path).json["batchinfer"]["paused_at"] is None
    paused = client.post(f"{path}/pause").json["batchinfer"]
    assert paused["paused_at"] > 0
    work_on(context, work.READ, tmp_path)
    lease_id = work.open_lease(context, role="model", worker="m", host="here", pid=1)
    assert work.claim(context, lease_id=lease_id, kinds=[work.INFER], model=model, limit=9) == []
    assert client.post(f"{path}/resume").json["batchinfer"]["paused_at"] is None
    assert client.post(f"{path}/reclass", json={"class": "interactive"}).json["batchinfer"]["class"] == "interactive"
    assert len(work.claim(context, lease_id=lease_id, kinds=[work.INFER], model=model, limit=9)) == 1
    wrong = client.post(f"{path}/reclass", json={"class": "first"})
    assert (wrong.status_code, wrong.json["error"]["param"]) == (400, "class")
    client.post(f"{path}/cancel")
    assert client.post(f"{path}/pause").json["error"]["code"] == "batch_not_pausable"


def test_the_same_key_answers_the_same_batch(client: FlaskClient) -> None:
    file_id, headers = upload(client, []), {"Idempotency-Key": "once"}
    first, again = create(client, file_id, headers=headers), create(client, file_id, headers=headers)
    assert first.json["id"] == again.json["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert create(client, file_id, headers=headers, completion_window="7d").status_code == 422


def test_pages_hold_each_batch_once(client: FlaskClient, stranger: FlaskClient) -> None:
    file_id = upload(client, [])
    ids = [create(client, file_id).json["id"] for _ in range(5)]
    seen, after = [], ""
    while True:
        page = client.get(f"/v1/batches?limit=2{after}").json
        seen += [batch["id"] for batch in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen == ids[::-1]
    assert client.get("/v1/batches?after=file-1").json["error"]["code"] == "invalid_cursor"
    assert stranger.get("/v1/batches").json["data"] == []
