"""Pictures and documents that a request names instead of bringing: files by their id, and addresses."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import JOB, parse_id
from batchinfer.services import reading, sweeping, work
from batchinfer.store.claims import READ
from batchinfer.web import create_app

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

Ask = Callable[..., dict[str, Any]]
NOBODYS = "file-0192f1c07d6a7b3e8f00c0ffee00c0de"
FIELD = "messages.0.content.0.file.file_id"
READ_IT = {"type": "text", "text": "read"}


def keep(client: FlaskClient, data: bytes, purpose: str = "vision", name: str = "a.png") -> str:
    made = client.post("/v1/files", data={"purpose": purpose, "file": (io.BytesIO(data), name)})
    return str(made.json["id"])


def named(file_id: str) -> list[dict[str, Any]]:
    return [{"type": "file", "file": {"file_id": file_id}}, READ_IT]


def stored_prompt(context: Context, job: dict[str, Any]) -> dict[str, Any]:
    with context.db.transaction() as tx:
        found = tx.execute(
            text("SELECT prompt FROM jobs WHERE id = :id"), {"id": parse_id(JOB, job["id"])}
        ).scalar_one()
    return dict(found)


def age_and_sweep(context: Context) -> None:
    """As if everything had lain there for longer than any grace."""
    old_s = 40 * 86_400
    with context.db.transaction() as tx:
        tx.execute(text("UPDATE blobs SET used_at = now() - make_interval(secs => :old)"), {"old": old_s})
    for path in context.blobs.root.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - old_s, time.time() - old_s))


def test_a_kept_picture_is_a_jobs_picture_and_outlives_its_file(
    client: FlaskClient, context: Context, ask: Ask, png: bytes
) -> None:
    file_id = keep(client, png)
    age_and_sweep(context)
    job = client.post("/v1/jobs", json=ask(named(file_id)))
    assert (job.status_code, job.json["status"]) == (202, "preparing")
    (image,) = stored_prompt(context, job.json)["images"]
    assert (image["media_type"], image["param"], image["normal"]) == ("image/png", FIELD, None)
    assert client.delete(f"/v1/files/{file_id}").status_code == 200
    sweeping.sweep_blobs(context)
    assert context.blobs.read(context_tenant(context), image["sha256"]) == png


def context_tenant(context: Context) -> Any:
    with context.db.transaction() as tx:
        return tx.execute(text("SELECT tenant_id FROM jobs LIMIT 1")).scalar_one()


def test_a_file_of_another_tenant_is_as_none(client: FlaskClient, stranger: FlaskClient, ask: Ask, png: bytes) -> None:
    theirs, gone = keep(client, png), keep(stranger, png)
    stranger.delete(f"/v1/files/{gone}")
    answers = [stranger.post("/v1/jobs", json=ask(named(file_id))) for file_id in (theirs, gone, NOBODYS, "file-1")]
    for answer in answers:
        assert (answer.status_code, answer.json["error"]) == (404, answers[0].json["error"])
    assert (answers[0].json["error"]["code"], answers[0].json["error"]["param"]) == ("file_not_found", FIELD)
    assert stranger.get("/v1/jobs").json["data"] == []


def test_what_is_no_picture_or_was_meant_for_something_else(client: FlaskClient, ask: Ask, png: bytes) -> None:
    for file_id, status, code in (
        (keep(client, png, "batch"), 400, "invalid_file_purpose"),
        (keep(client, b"GIF89a"), 415, "unsupported_media_type"),
        (keep(client, b"{}", "user_data"), 415, "unsupported_media_type"),
    ):
        error = client.post("/v1/jobs", json=ask(named(file_id)))
        assert (error.status_code, error.json["error"]["code"], error.json["error"]["param"]) == (status, code, FIELD)


def test_a_kept_document_becomes_a_document_under_its_name(client: FlaskClient, ask: Ask, png: bytes) -> None:
    file_id = keep(client, b"%PDF-1.7", "user_data", "report.pdf")
    made = client.post("/v1/jobs", json=ask(named(file_id)))
    assert (made.status_code, made.json["object"], made.json["filename"]) == (202, "document", "report.pdf")
    beside = [*named(file_id), *named(keep(client, png))]
    assert client.post("/v1/jobs", json=ask(beside)).json["error"]["code"] == "document_not_alone"


def test_a_response_names_files_in_its_own_words(client: FlaskClient, context: Context, model: str, png: bytes) -> None:
    def respond(*parts: dict[str, Any]) -> Any:
        body = {"model": model, "background": True, "instructions": "be brief"}
        return client.post("/v1/responses", json={**body, "input": [{"role": "user", "content": list(parts)}]})

    picture, document = keep(client, png), keep(client, b"%PDF-1.7", "user_data")
    made = respond({"type": "input_image", "file_id": picture}, {"type": "input_file", "file_id": document})
    assert made.status_code == 200
    prompt = stored_prompt(context, {"id": made.json["id"].replace("resp_", "job_")})
    assert [image["media_type"] for image in prompt["images"]] == ["image/png", "application/pdf"]
    assert prompt["images"][0]["param"] == "input.0.content.0.file_id"
    for unknown in (NOBODYS, "file-1"):
        refused = respond({"type": "input_image", "file_id": unknown})
        assert (refused.status_code, refused.json["error"]["param"]) == (404, "input.0.content.0.file_id")


def make_batch(client: FlaskClient, *contents: Any) -> str:
    rows = [
        {
            "custom_id": str(number), "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "org/reader", "messages": [{"role": "user", "content": content}]},
        }
        for number, content in enumerate(contents)
    ]  # fmt: skip
    file_id = keep(client, b"".join(json.dumps(row).encode() + b"\n" for row in rows), "batch", "in.jsonl")
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return str(client.post("/v1/batches", json=body).json["id"])


def take_batch(context: Context, lease_id: Any) -> Any:
    (claim,) = work.claim(context, lease_id=lease_id, kinds=[READ], model=None, limit=1)
    return claim


def test_lines_of_a_batch_name_files(
    client: FlaskClient, stranger: FlaskClient, context: Context, worker: Any, png: bytes
) -> None:
    file_id = keep(client, png)
    bad = make_batch(client, named(file_id), named(keep(stranger, png)), named("file-1"))
    reading.read_batch(context, take_batch(context, worker.lease_id), lambda act: act(), lambda: True)
    found = client.get(f"/v1/batches/{bad}").json["errors"]["data"]
    assert [(error["line"], error["code"], error["param"]) for error in found] == [
        (2, "file_not_found", f"body.{FIELD}"), (3, "file_not_found", f"body.{FIELD}"),
    ]  # fmt: skip
    good = make_batch(client, named(file_id), named(file_id))
    claim = take_batch(context, worker.lease_id)

    def delete_then(act: Callable[[], bool]) -> bool:
        """The file goes between the check of the lines and their becoming jobs."""
        client.delete(f"/v1/files/{file_id}")
        return act()

    assert reading.read_batch(context, claim, delete_then, lambda: True)
    batch = client.get(f"/v1/batches/{good}").json
    assert (batch["status"], batch["request_counts"]["total"], batch["errors"]) == ("in_progress", 2, None)


ADDRESS = [{"type": "image_url", "image_url": {"url": "https://pictures.example/a.png?sig=secret"}}, READ_IT]


@pytest.fixture
def fetching(context: Context, api_key: str, model: str) -> FlaskClient:
    """A client of a service that may fetch from one host."""
    settings = context.settings.model_copy(update={"fetch_hosts": "pictures.example"})
    client = create_app(context=replace(context, settings=settings)).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {api_key}"
    return client


def test_an_address_is_off_unless_its_host_is_named(client: FlaskClient, fetching: FlaskClient, ask: Ask) -> None:
    off = client.post("/v1/jobs", json=ask(ADDRESS)).json["error"]
    assert (off["code"], off["param"]) == ("invalid_image_url", "messages.0.content.0.image_url.url")
    other = [{"type": "image_url", "image_url": {"url": "https://169.254.169.254/latest"}}]
    refused = fetching.post("/v1/jobs", json=ask(other))
    assert (refused.status_code, refused.json["error"]["code"]) == (400, "url_not_allowed")


def test_an_address_is_stored_unasked_and_the_job_waits_to_be_prepared(
    fetching: FlaskClient, context: Context, ask: Ask, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    def never(*_: Any) -> None:
        pytest.fail("the web process asked for a name")

    monkeypatch.setattr("batchinfer.media.outward.resolve_host", never)
    job = fetching.post("/v1/jobs", json=ask(ADDRESS))
    assert (job.status_code, job.json["status"]) == (202, "preparing")
    assert stored_prompt(context, job.json)["images"] == [
        {
            "url": "https://pictures.example/a.png?sig=secret", "pages": False, "normal": None,
            "param": "messages.0.content.0.image_url.url",
        }
    ]  # fmt: skip
    assert "secret" not in str(logged)
