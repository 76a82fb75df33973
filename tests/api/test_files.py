"""Files over HTTP: what OpenAI's SDK sends, and what it reads back."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.web import create_app

if TYPE_CHECKING:
    from flask.testing import FlaskClient

LINES = b'{"custom_id": "a"}\n' * 3


def send(client: FlaskClient, data: bytes = LINES, name: str = "in.jsonl", purpose: str = "batch", **more: Any) -> Any:
    headers = more.pop("headers", {})
    form = {"purpose": purpose, "file": (io.BytesIO(data), name, "application/octet-stream"), **more}
    return client.post("/v1/files", data=form, headers=headers)


def test_a_file_is_kept_listed_read_and_deleted(client: FlaskClient) -> None:
    answer = send(client)
    assert answer.status_code == 200
    made = answer.json
    assert made["id"].startswith("file-")
    assert (made["object"], made["bytes"], made["filename"]) == ("file", len(LINES), "in.jsonl")
    assert (made["purpose"], made["status"]) == ("batch", "processed")
    assert made["expires_at"] - made["created_at"] == 2_592_000, "batch files have 30 days"
    assert client.get(f"/v1/files/{made['id']}").json == made
    content = client.get(f"/v1/files/{made['id']}/content", headers={"Accept": "application/binary"})
    assert (content.status_code, content.data, content.content_length) == (200, LINES, len(LINES))
    assert client.delete(f"/v1/files/{made['id']}").json == {"id": made["id"], "object": "file", "deleted": True}
    for path in (f"/v1/files/{made['id']}", f"/v1/files/{made['id']}/content"):
        assert client.get(path).json["error"]["code"] == "file_not_found"
    assert client.delete(f"/v1/files/{made['id']}").status_code == 404
    assert client.get("/v1/files").json["data"] == []


def test_bracketed_expiry_and_a_file_without_one(client: FlaskClient) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    made = send(client, **fields).json
    assert made["expires_at"] - made["created_at"] == 3600
    kept = send(client, b"\0binary", "upload", "user_data").json
    assert (kept["expires_at"], kept["filename"]) == (None, "upload")
    assert client.get(f"/v1/files/{kept['id']}/content").data == b"\0binary"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"}, "expires_after.seconds"),
        ({"expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_field_is_named(client: FlaskClient, fields: dict[str, str], param: str) -> None:
    answer = send(client, **fields)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)


def test_what_is_no_file_is_refused(client: FlaskClient) -> None:
    assert client.post("/v1/files", json={"purpose": "batch"}).status_code == 415
    assert client.post("/v1/files", data={"purpose": "batch", "x": (io.BytesIO(b"a"), "a")}).status_code == 400
    missing = client.post("/v1/files", data={"purpose": "batch"}, content_type="multipart/form-data")
    assert missing.json["error"]["code"] == "missing_required_parameter"


def test_a_file_may_be_larger_than_a_body_and_has_a_limit_of_its_own(context: Any, api_key: str) -> None:
    from dataclasses import replace

    settings = context.settings.model_copy(update={"max_body_bytes": 2048, "max_file_bytes": 2**18})
    client = create_app(context=replace(context, settings=settings)).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {api_key}"
    assert send(client, b"x" * 2**18).json["bytes"] == 2**18
    over = send(client, b"x" * (2**18 + 1))
    assert (over.status_code, over.json["error"]["code"]) == (413, "file_too_large")
    vast = client.post("/v1/files", data=b"x" * 2**21, content_type="multipart/form-data; boundary=b")
    assert (vast.status_code, vast.json["error"]["code"]) == (413, "body_too_large")


def test_the_same_key_answers_the_same_file(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "once"}
    first, again = send(client, headers=headers), send(client, headers=headers)
    assert first.json == again.json
    assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")
    assert send(client, b"other", headers=headers).status_code == 422
    assert send(client).json["id"] != first.json["id"], "without a key the same bytes make another file"


def test_pages_hold_each_file_once(client: FlaskClient) -> None:
    ids = [send(client, name=f"{number}.jsonl").json["id"] for number in range(5)]
    other = send(client, b"\x89PNG\r\n\x1a\n", "a.png", "vision").json["id"]
    seen, after = [], ""
    while True:
        page = client.get(f"/v1/files?limit=2&purpose=batch{after}").json
        seen += [file["id"] for file in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen == ids[::-1]
    assert [file["id"] for file in client.get("/v1/files?order=asc").json["data"]] == [*ids, other]
    assert client.get("/v1/files?after=job_1").json["error"]["code"] == "invalid_cursor"
    assert client.get("/v1/files?order=up").status_code == 400


def test_files_are_a_tenants_own(client: FlaskClient, stranger: FlaskClient) -> None:
    made = send(client).json
    assert stranger.get("/v1/files").json["data"] == []
    assert stranger.get(f"/v1/files/{made['id']}/content").status_code == 404
    assert stranger.delete(f"/v1/files/{made['id']}").status_code == 404
    assert client.get(f"/v1/files/{made['id']}").status_code == 200
