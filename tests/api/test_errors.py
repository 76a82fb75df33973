"""The one error writer: body, headers, and what never gets out."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.api.errors import write_error
from batchinfer.errors import Busy, Conflict, InFlight, Unavailable
from batchinfer.observe.logs import configure_logging
from batchinfer.services import jobs
from batchinfer.settings import Settings, load_settings
from batchinfer.web import create_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask.testing import FlaskClient
    from flask_openapi.openapi import OpenAPI

    from batchinfer.services.context import Context

MEMBERS = {"error", "type", "title", "status", "detail", "instance", "request_id"}


def check_shape(answer: Any) -> None:
    body = answer.json
    assert set(body) == MEMBERS
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["status"] == answer.status_code
    assert body["detail"] == body["error"]["message"]
    assert body["type"] == f"urn:batchinfer:error:{body['error']['code']}"
    assert body["request_id"] == answer.headers["x-request-id"]
    assert answer.mimetype == "application/problem+json"
    assert answer.headers["x-should-retry"] in {"true", "false"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "path_not_found"),
        ("GET", "/v1/nothing", 404, "path_not_found"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("PATCH", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/jobs", 415, "unsupported_content_type"),
        ("GET", "/v1/jobs/job_" + "0" * 32, 404, None),
        ("GET", "/v1/jobs?limit=x", 400, "invalid_value"),
    ],
)
def test_every_error_has_the_one_body(
    client: FlaskClient, method: str, path: str, status: int, code: str | None
) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert code is None or answer.json["error"]["code"] == code
    check_shape(answer)
    if status == 405:
        assert "GET" in answer.headers["Allow"]


def test_a_body_over_the_limit(context: Context, settings: Settings, api_key: str) -> None:
    small = load_settings(**{**settings.model_dump(), "max_body_bytes": 2000, "max_prompt_chars": 10})
    client = create_app(context=_with_settings(context, small)).test_client()
    headers = {"Authorization": f"Bearer {api_key}"}
    answer = client.post("/v1/jobs", data=b"{" + b" " * 2000, headers=headers, content_type="application/json")
    assert (answer.status_code, answer.json["error"]["code"]) == (413, "body_too_large")
    assert "2,000 bytes" in answer.json["error"]["message"]
    check_shape(answer)
    form = {"file": (io.BytesIO(b"x" * 3000), "a.png")}
    answer = client.post("/v1/jobs", data=form, headers=headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (413, "body_too_large")


def test_a_form_of_too_many_parts(client: FlaskClient) -> None:
    answer = client.post("/v1/jobs", data={f"f{i}": "x" for i in range(200)} | {"file": (io.BytesIO(b"x"), "a")})
    assert (answer.status_code, answer.json["error"]["code"]) == (413, "form_too_large")


def test_a_form_text_over_the_limit(context: Context, settings: Settings, api_key: str) -> None:
    small = load_settings(**{**settings.model_dump(), "max_prompt_chars": 10})
    client = create_app(context=_with_settings(context, small)).test_client()
    body = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + b"x" * 2_000_000 + b"\r\n--b--\r\n"
    headers = {"Authorization": f"Bearer {api_key}"}
    answer = client.post("/v1/jobs", data=body, headers=headers, content_type="multipart/form-data; boundary=b")
    assert (answer.status_code, answer.json["error"]["code"]) == (413, "form_too_large")


def _with_settings(context: Context, settings: Settings) -> Context:
    from dataclasses import replace

    return replace(context, settings=settings)


def test_an_unexpected_error_tells_nothing_but_the_request_id(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, lines: io.StringIO
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret postgresql://user:password@host")

    monkeypatch.setattr(jobs, "list_jobs", fail)
    answer = client.get("/v1/jobs", headers={"X-Request-Id": "find-me"})
    assert (answer.status_code, answer.json["error"]["code"]) == (500, "internal_error")
    check_shape(answer)
    assert "secret" not in answer.get_data(as_text=True)
    assert "find-me" in answer.json["error"]["message"]
    logged = [line for line in lines.getvalue().splitlines() if "RuntimeError" in line]
    assert len(logged) == 1
    assert json.loads(logged[0])["request_id"] == "find-me"


def test_a_database_that_is_away(settings: Settings, api_key: str) -> None:
    away = load_settings(**{**settings.model_dump(), "database_url": "postgresql://u:p@127.0.0.1:9/x"})
    client = create_app(away).test_client()
    answer = client.get("/v1/jobs", headers={"Authorization": f"Bearer {api_key}"})
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "database_unavailable")
    assert answer.headers["x-should-retry"] == "true"
    assert int(answer.headers["Retry-After"]) <= 120
    check_shape(answer)
    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["status"]) == (503, "unready")
    assert ready.json["checks"]["database"]["ok"] is False
    assert "127.0.0.1" not in ready.get_data(as_text=True)


@pytest.mark.parametrize(
    ("error", "retry", "wait"),
    [
        (Busy("x"), "true", "5"),
        (Busy("x", retry_after_s=9000), "true", "120"),
        (InFlight("x"), "true", "1"),
        (Unavailable("x", retry_after_s=7), "true", "7"),
        (Conflict("x"), "false", None),
    ],
)
def test_the_headers_that_steer_a_retry(app: OpenAPI, error: Any, retry: str, wait: str | None) -> None:
    with app.test_request_context("/v1/jobs"):
        answer = write_error(error)
    assert (answer.headers["x-should-retry"], answer.headers.get("Retry-After")) == (retry, wait)


@pytest.mark.parametrize(("sent", "kept"), [("abc-1", True), ("a" * 65, False), ("a b", False), ("", False)])
def test_request_ids_go_in_and_out(anonymous: FlaskClient, sent: str, kept: bool) -> None:
    answer = anonymous.get("/healthz", headers={"X-Request-Id": sent})
    assert (answer.headers["x-request-id"] == sent) is kept
    assert answer.headers["x-request-id"]


def test_every_answer_has_the_headers_that_browsers_heed(client: FlaskClient) -> None:
    for path in ("/healthz", "/v1/jobs", "/nothing", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.fixture
def lines(settings: Settings) -> Iterator[io.StringIO]:
    """What is logged, as JSON lines."""
    stream, root = io.StringIO(), logging.getLogger()
    before = (root.level, list(root.handlers))
    configure_logging(settings, "web", stream)
    yield stream
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def test_the_log_has_ids_and_no_contents(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], api_key: str, lines: io.StringIO
) -> None:
    client.post("/v1/jobs", json=ask("a private question", metadata={"note": "a private note"}))
    client.get("/v1/models/a private path")
    client.get("/v1/jobs?model=a private query")
    logged = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["status"] for line in logged if line["event"] == "answered"] == [202, 404, 200]
    assert all(line["request_id"] and line["role"] == "web" for line in logged)
    assert "private" not in lines.getvalue()
    assert api_key not in lines.getvalue()
