"""Files that come in parts over HTTP: begun, filled, completed into a file like any other, or given up."""

from __future__ import annotations

import hashlib
import io
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import text

from batchinfer.services import sweeping
from batchinfer.store import uploads
from batchinfer.store.horizons import Horizons
from batchinfer.web import create_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

TABLES = ("uploads", "upload_parts")
ONE, TWO = b'{"custom_id": "a"}\n' * 3, b'{"custom_id": "b"}\n'


def begin(client: FlaskClient, size: int = len(ONE + TWO), headers: Any = None, **more: Any) -> Any:
    body = {"filename": "in.jsonl", "bytes": size, "purpose": "batch", "mime_type": "application/jsonl", **more}
    return client.post("/v1/uploads", json=body, headers=headers)


def add(client: FlaskClient, upload: Any, data: bytes, **more: Any) -> Any:
    form = {"data": (io.BytesIO(data), "upload", "application/octet-stream")}
    return client.post(f"/v1/uploads/{upload['id']}/parts", data=form, **more)


def complete(client: FlaskClient, upload: Any, parts: list[Any], **more: Any) -> Any:
    body = {"part_ids": [part["id"] for part in parts], **more}
    return client.post(f"/v1/uploads/{upload['id']}/complete", json=body)


def test_parts_become_a_file_in_the_order_that_is_named(client: FlaskClient) -> None:
    upload = begin(client).json
    assert (upload["object"], upload["status"], upload["file"]) == ("upload", "pending", None)
    assert (upload["bytes"], upload["filename"], upload["purpose"]) == (len(ONE + TWO), "in.jsonl", "batch")
    assert upload["expires_at"] - upload["created_at"] == 3600
    second, first = add(client, upload, TWO).json, add(client, upload, ONE).json
    assert (first["object"], first["upload_id"]) == ("upload.part", upload["id"])
    done = complete(
        client, upload, [first, second], md5=hashlib.md5(ONE + TWO, usedforsecurity=False).hexdigest().upper()
    )
    assert (done.status_code, done.json["status"]) == (200, "completed")
    file = done.json["file"]
    assert client.get(f"/v1/files/{file['id']}").json == file, "a file like any other"
    assert file["expires_at"] - file["created_at"] == 2_592_000, "batch files have 30 days"
    assert client.get(f"/v1/files/{file['id']}/content").data == ONE + TWO
    assert complete(client, upload, [first, second]).json == done.json, "twice is as once"
    client.delete(f"/v1/files/{file['id']}")
    assert complete(client, upload, [first, second]).json["file"] is None


def test_what_cannot_be_put_together_leaves_the_upload_as_it_was(client: FlaskClient, context: Context) -> None:
    upload, other = begin(client).json, begin(client).json
    first, second, strange = add(client, upload, ONE).json, add(client, upload, TWO).json, add(client, other, TWO).json
    refused = [
        (complete(client, upload, [first]), "upload_size_mismatch", "part_ids"),
        (complete(client, upload, [first, second, second]), "upload_size_mismatch", "part_ids"),
        (complete(client, upload, [first, strange]), "part_not_found", "part_ids.1"),
        (complete(client, upload, [{"id": "nonsense"}]), "part_not_found", "part_ids.0"),
        (
            complete(client, upload, [second, first], md5=hashlib.md5(ONE + TWO, usedforsecurity=False).hexdigest()),
            "md5_mismatch",
            "md5",
        ),
        (complete(client, upload, [first, second], md5="xyz"), "invalid_value", "md5"),
        (complete(client, upload, []), "invalid_value", "part_ids"),
        (complete(client, upload, [first, second], sha256="0"), "unknown_parameter", "sha256"),
    ]
    for answer, code, param in refused:
        assert (answer.status_code, answer.json["error"]["code"], answer.json["error"]["param"]) == (400, code, param)
    assert client.get("/v1/files").json["data"] == []
    kept = [path.name for path in context.blobs.root.rglob("*") if path.is_file()]
    assert len(kept) == 2, "a file whose MD5 is another is not kept, nor what was half written"
    assert complete(client, upload, [first, second]).json["status"] == "completed"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": 2**40}, "bytes"),
        ({"bytes": None}, "bytes"),
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": None}, "purpose"),
        ({"filename": None}, "filename"),
        ({"filename": "a\0b"}, "filename"),
        ({"mime_type": 3}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"sha256": "0"}, "sha256"),
    ],
)
def test_a_bad_field_is_named(client: FlaskClient, fields: dict[str, Any], param: str) -> None:
    answer = begin(client, **fields) if "bytes" not in fields else begin(client, fields["bytes"])
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)


def test_what_is_no_part_is_refused(client: FlaskClient) -> None:
    upload = begin(client).json
    path = f"/v1/uploads/{upload['id']}/parts"
    assert client.post(path, json={}).status_code == 415
    assert client.post(path, data={"data": "text"}, content_type="multipart/form-data").status_code == 400
    assert add(client, upload, b"").json["error"]["param"] == "data"
    more = {"data": (io.BytesIO(ONE), "upload"), "colour": "red"}
    assert client.post(path, data=more).json["error"]["param"] == "colour"


def test_limits_of_a_part_and_of_all_parts(context: Context, api_key: str) -> None:
    settings = context.settings.model_copy(update={"max_body_bytes": 2048, "max_part_bytes": 2**18})
    client = create_app(context=replace(context, settings=settings)).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {api_key}"
    upload = begin(client, 2**18).json
    over = add(client, upload, b"x" * (2**18 + 1))
    assert (over.status_code, over.json["error"]["code"]) == (413, "part_too_large")
    for _ in range(4):  # the same bytes come again when an answer was lost; they take no room
        assert add(client, upload, b"x" * 2**18).status_code == 200
    assert add(client, upload, b"y" * 2**18).status_code == 200
    third = add(client, upload, b"z" * 2**18)
    assert (third.status_code, third.json["error"]["code"]) == (413, "too_many_parts")


def test_a_cancelled_upload_takes_nothing_more(client: FlaskClient) -> None:
    upload = begin(client).json
    parts = [add(client, upload, data).json for data in (ONE, TWO)]
    cancelled = client.post(f"/v1/uploads/{upload['id']}/cancel")
    assert (cancelled.status_code, cancelled.json["status"]) == (200, "cancelled")
    assert client.post(f"/v1/uploads/{upload['id']}/cancel").json == cancelled.json, "twice is as once"
    for answer in (add(client, upload, TWO), complete(client, upload, parts)):
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "upload_not_pending")
    done = begin(client, len(ONE)).json
    complete(client, done, [add(client, done, ONE).json])
    assert client.post(f"/v1/uploads/{done['id']}/cancel").json["error"]["code"] == "upload_not_pending"


def test_an_upload_whose_time_is_over_is_expired_and_forgotten(client: FlaskClient, context: Context) -> None:
    upload = begin(client).json
    part = add(client, upload, ONE + TWO).json
    with context.db.transaction() as tx:
        tx.execute(text("UPDATE uploads SET expires_at = now() - interval '1 second'"))
    for answer in (
        add(client, upload, TWO),
        complete(client, upload, [part]),
        client.post(f"/v1/uploads/{upload['id']}/cancel"),
    ):
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "upload_not_pending")
        assert "is expired" in answer.json["error"]["message"]
    begin(client)
    with context.db.transaction() as tx:
        assert uploads.forget_ended(tx, before=Horizons(UUID(int=2**128 - 1))) == 1
        left = {table: tx.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in TABLES}  # noqa: S608
    assert left == {"uploads": 1, "upload_parts": 0}, "the pending one stays"


def test_parts_live_as_long_as_their_upload_and_no_longer(client: FlaskClient, context: Context) -> None:
    upload = begin(client).json
    parts = [add(client, upload, data).json for data in (ONE, TWO)]
    old = context.settings.blob_grace_hours * 3600 + 60

    def sweep() -> set[bytes]:
        """What is left when everything is old."""
        with context.db.transaction() as tx:
            tx.execute(text("UPDATE blobs SET used_at = now() - make_interval(secs => :old)"), {"old": old})
        for path in context.blobs.root.rglob("*"):
            if path.is_file():
                os.utime(path, (time.time() - old, time.time() - old))
        sweeping.sweep_blobs(context)
        return {path.read_bytes() for path in context.blobs.root.rglob("*") if path.is_file()}

    assert sweep() == {ONE, TWO}
    assert complete(client, upload, parts).json["status"] == "completed"
    assert sweep() == {ONE + TWO}


def test_a_part_that_is_a_whole_picture_is_a_picture_afterwards(
    client: FlaskClient, context: Context, png: bytes
) -> None:
    upload = begin(client, len(png), purpose="vision", filename="a.png").json
    complete(client, upload, [add(client, upload, png).json])
    with context.db.transaction() as tx:
        assert tx.execute(text("SELECT media_type FROM blobs")).scalars().all() == ["image/png"]


def test_the_same_key_answers_the_same_upload_and_part(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "once"}
    upload, again = begin(client, headers=headers), begin(client, headers=headers)
    assert upload.json == again.json
    assert (upload.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")
    assert begin(client, 5, headers=headers).status_code == 422
    part, replayed = (add(client, upload.json, ONE, headers=headers) for _ in range(2))
    assert part.json == replayed.json
    assert replayed.headers["Idempotency-Replayed"] == "true"
    assert add(client, upload.json, TWO, headers=headers).status_code == 422
    assert add(client, begin(client).json, ONE, headers=headers).status_code == 422, "another upload is another request"
    assert add(client, upload.json, ONE).json["id"] != part.json["id"], "without a key the same bytes are another part"


def test_uploads_are_a_tenants_own(client: FlaskClient, stranger: FlaskClient) -> None:
    upload = begin(client).json
    part = add(client, upload, ONE + TWO).json
    for answer in (
        add(stranger, upload, TWO),
        complete(stranger, upload, [part]),
        stranger.post(f"/v1/uploads/{upload['id']}/cancel"),
    ):
        assert (answer.status_code, answer.json["error"]["code"]) == (404, "upload_not_found")
    mine = begin(stranger).json
    assert complete(stranger, mine, [part]).json["error"]["code"] == "part_not_found"
    assert complete(client, upload, [part]).json["status"] == "completed"


def test_a_batch_is_made_of_a_file_that_came_in_parts(client: FlaskClient, ask: Callable[..., Any]) -> None:
    upload = begin(client).json
    file = complete(client, upload, [add(client, upload, ONE + TWO).json]).json["file"]
    body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert client.post("/v1/batches", json=body).json["status"] == "validating"
