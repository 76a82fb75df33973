"""How the client asks: again where that helps, never twice the same creation, and what it raises."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer import errors
from batchinfer.client import Client, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOB = {"id": "job_1", "object": "job", "status": "queued", "model": "m", "created_at": 1}


def problem(code: str, message: str = "Wrong. Do it rightly.", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "param": None, "code": code, **more}, "status": 0}


@dataclass
class Scripted:
    """A server that gives its answers one after the other, the last one again and again."""

    answers: list[tuple[int, dict[str, str], Any]] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def say(self, status: int, body: Any = None, **headers: str) -> None:
        self.answers.append((status, {name.replace("_", "-"): text for name, text in headers.items()}, body))

    def next_answer(self) -> tuple[int, dict[str, str], Any]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def server() -> Iterator[Scripted]:
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            script.asked.append((self.command, self.path, dict(self.headers)))
            status, headers, body = script.next_answer()
            if status == 0:  # taken, and never answered
                self.close_connection = True
                return
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, text in {"Content-Length": str(len(raw)), **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        script.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield script
        http.shutdown()
        thread.join()


@pytest.fixture
def client(server: Scripted) -> Iterator[Client]:
    with Client(server.url, "bi_x", patience_s=30, timeout_s=30) as client:
        yield client


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_value", errors.BadRequest),
        (401, "invalid_api_key", errors.Unauthenticated),
        (403, "insufficient_scope", errors.Forbidden),
        (404, "not_found", errors.NotFound),
        (405, "method_not_allowed", errors.MethodNotAllowed),
        (409, "conflict", errors.Conflict),
        (409, "idempotency_in_progress", errors.InFlight),
        (413, "body_too_large", errors.TooLarge),
        (415, "unsupported_media_type", errors.Unsupported),
        (422, "idempotency_key_reused", errors.KeyReused),
        (429, "quota_exceeded", errors.Busy),
        (500, "internal_error", errors.Internal),
        (503, "storage_full", errors.Unavailable),
        (504, "timeout", errors.Overrun),
        (418, "teapot", errors.BadRequest),
        (507, "odd", errors.Internal),
    ],
)
def test_an_error_is_what_it_was_on_the_other_side(
    server: Scripted, client: Client, status: int, code: str, kind: type[errors.BatchinferError]
) -> None:
    server.say(status, problem(code, param="a.b", job_id="job_7"), x_should_retry="false", x_request_id="req_9")
    with pytest.raises(errors.BatchinferError) as caught:
        client.jobs.get("job_1")
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.message, error.param) == (code, "Wrong. Do it rightly.", "a.b")
    assert (error.job_id, error.request_id) == ("job_7", "req_9")
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b'{"error": "no"}', b"[]"])
def test_a_page_that_is_not_ours_is_an_error_without_its_text(server: Scripted, client: Client, body: bytes) -> None:
    server.say(404, body)
    with pytest.raises(errors.NotFound, match="status 404 without a word") as caught:
        client.jobs.get("job_1")
    assert "gateway" not in str(caught.value)
    server.answers.clear()
    server.say(200, b"<html>")
    with pytest.raises(Unreachable, match="not JSON"):
        client.jobs.get("job_1")


def test_a_creation_is_tried_again_with_the_same_key_and_no_two_have_one(server: Scripted, client: Client) -> None:
    server.say(0)
    server.say(503, problem("database_unavailable"), x_should_retry="true", Retry_After="0")
    server.say(502, b"<html>")
    server.say(202, JOB)
    assert client.submit("hello", model="m").id == "job_1"
    keys = [headers["Idempotency-Key"] for _, _, headers in server.asked]
    assert len(keys) == 4
    assert len(set(keys)) == 1
    client.submit("hello", model="m")
    assert server.asked[-1][2]["Idempotency-Key"] not in keys
    client.submit("hello", model="m", idempotency_key="mine")
    assert server.asked[-1][2]["Idempotency-Key"] == "mine"


def test_retry_after_is_kept_to(server: Scripted, client: Client) -> None:
    server.say(429, problem("quota_exceeded"), x_should_retry="true", Retry_After="1")
    server.say(200, JOB)
    began_s = time.monotonic()
    client.jobs.get("job_1")
    assert time.monotonic() - began_s >= 1.0


def test_who_would_have_to_wait_beyond_the_patience_is_told_at_once(server: Scripted) -> None:
    server.say(429, problem("quota_exceeded"), x_should_retry="true", Retry_After="100")
    with Client(server.url, "bi_x", patience_s=5) as client, pytest.raises(errors.Busy) as caught:
        client.jobs.get("job_1")
    assert caught.value.retry_after_s == 100
    assert len(server.asked) == 1


def test_what_must_not_happen_twice_is_not_sent_twice(server: Scripted, client: Client) -> None:
    server.say(0)
    with pytest.raises(Unreachable):
        client.jobs.release("job_1")
    assert len(server.asked) == 1


def test_a_redirect_is_not_followed(server: Scripted, client: Client) -> None:
    server.say(302, b"", Location="http://127.0.0.1:9/elsewhere")
    with pytest.raises(errors.BadRequest, match="status 302"):
        client.jobs.get("job_1")
    assert len(server.asked) == 1


def test_lists_go_on_to_their_end_and_stop_where_asked(server: Scripted, client: Client) -> None:
    server.say(200, {"data": [{**JOB, "id": "job_3"}, {**JOB, "id": "job_2"}], "has_more": True, "last_id": "job_2"})
    server.say(200, {"data": [JOB], "has_more": False, "last_id": "job_1"})
    assert [job.id for job in client.jobs.list(status="queued")] == ["job_3", "job_2", "job_1"]
    assert [path for _, path, _ in server.asked] == [
        "/v1/jobs?status=queued&limit=100",
        "/v1/jobs?status=queued&after=job_2&limit=100",
    ]
    assert [job.id for job in client.jobs.list(limit=1)] == ["job_1"]
    assert server.asked[-1][1] == "/v1/jobs?limit=1"


def test_what_a_newer_service_says_is_kept(server: Scripted, client: Client) -> None:
    server.say(200, {**JOB, "status": "dreaming", "colour": "blue"})
    job = client.jobs.get("job_1")
    assert (job.status, job.ended, job.as_dict()["colour"]) == ("dreaming", False, "blue")


def test_a_download_that_breaks_off_leaves_nothing_half(server: Scripted, client: Client, tmp_path: Path) -> None:
    server.say(200, b"abc", Content_Length="100")
    server.say(404, problem("file_not_found"))
    with pytest.raises(errors.NotFound):
        client.files.download("file-1", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    server.answers.clear()
    server.say(200, b"abc")
    assert client.files.download("file-1", tmp_path / "out") == 3
    assert (tmp_path / "out").read_bytes() == b"abc"
    assert len(list(tmp_path.iterdir())) == 1


def test_nobody_there_is_said_without_the_text_of_a_library() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}/v1/", "bi_x", patience_s=0) as client, pytest.raises(Unreachable) as caught:
        client.models.list()
    assert str(caught.value) == "GET /v1/models: no answer (ConnectError). Does the service run there?"


def test_address_and_key_come_from_the_environment(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.SettingsError, match="BATCHINFER_URL"):
        Client()
    monkeypatch.setenv("BATCHINFER_URL", f"{server.url}/v1")
    monkeypatch.setenv("BATCHINFER_API_KEY", "bi_secret")
    server.say(200, JOB)
    with Client() as client:
        client.jobs.get("job_1")
    assert server.asked[0][1] == "/v1/jobs/job_1"
    assert server.asked[0][2]["Authorization"] == "Bearer bi_secret"
    with pytest.raises(errors.SettingsError, match="http://"):
        Client("ftp://x")


def test_it_imports_nothing_of_a_server() -> None:
    code = "import sys; import batchinfer.client, batchinfer.client.progress; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "httpx" in loaded
    assert not loaded & {"flask", "werkzeug", "sqlalchemy", "psycopg", "celery", "redis", "torch", "openai", "pandas"}
    assert not [name for name in loaded if name.startswith(("batchinfer.services", "batchinfer.store", "workers"))]


def test_every_field_that_the_client_types_is_one_that_the_service_answers_with() -> None:
    from batchinfer.api import batch_schemas, file_schemas, schemas
    from batchinfer.client import nouns

    pairs = {
        nouns.Job: schemas.JobBody,
        nouns.Attempt: schemas.AttemptBody,
        nouns.Document: schemas.DocumentBody,
        nouns.Result: schemas.Result,
        nouns.Problem: schemas.ErrorDetail,
        nouns.Model: schemas.ModelBody,
        nouns.File: file_schemas.FileBody,
        nouns.Batch: batch_schemas.BatchBody,
        nouns.Counts: batch_schemas.RequestCounts,
        nouns.Extras: batch_schemas.BatchExtras,
        nouns.Fault: batch_schemas.BatchFault,
        nouns.Faults: batch_schemas.BatchFaults,
        nouns.UsageReport: schemas.UsageBody,
        nouns.UsageRow: schemas.UsageRowBody,
    }
    for noun, body in pairs.items():
        assert set(noun.model_fields) <= set(body.model_fields), noun
