"""Submissions over HTTP: what answers 202, and what is refused with which words."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

PDF = b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n"
JOB_FIELDS = {
    "id", "object", "status", "model", "created_at", "started_at", "finished_at", "attempts", "crashes",
    "result", "usage", "error", "document_id", "page", "outcome", "metadata", "timings", "cached",
    "retry_of", "retried_as", "trace_id",
}  # fmt: skip


def error_of(response: Any) -> tuple[int, str, str | None]:
    error = response.json["error"]
    assert error["message"]
    return response.status_code, error["code"], error["param"]


def test_a_json_job_is_accepted(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    response = client.post("/v1/jobs", json=ask(metadata={"folder": "in"}))
    assert response.status_code == 202
    job = response.json
    assert set(job) == JOB_FIELDS
    assert (job["object"], job["status"], job["attempts"], job["result"]) == ("job", "queued", 0, None)
    assert job["metadata"] == {"folder": "in"}
    assert job["id"].startswith("job_")
    assert isinstance(job["created_at"], int)
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert client.get(response.headers["Location"]).json == job


def test_a_picture_in_json_is_prepared_first(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], png: bytes
) -> None:
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "read"}]
    response = client.post("/v1/jobs", json=ask(content))
    assert (response.status_code, response.json["status"]) == (202, "preparing")


def test_a_form_with_a_picture_is_a_job(client: FlaskClient, model: str, png: bytes, context: Context) -> None:
    fields = {"model": model, "prompt": "read", "max_tokens": "9", "file": (io.BytesIO(png), "a.png")}
    response = client.post("/v1/jobs", data=fields)
    assert (response.status_code, response.json["object"]) == (202, "job")


@pytest.mark.parametrize("data", [PDF, b"II*\0" + b"\0" * 60], ids=["pdf", "tiff"])
def test_a_pdf_or_tiff_is_a_document(client: FlaskClient, model: str, data: bytes) -> None:
    """By its first bytes, whatever its name and type say."""
    fields = {
        "model": model,
        "prompt": "read",
        "file": (io.BytesIO(data), "papers/2024/scan.png", "image/png"),
    }
    response = client.post("/v1/jobs", data=fields)
    document = response.json
    assert response.status_code == 202
    assert (document["object"], document["status"], document["pages"]) == ("document", "queued", None)
    assert document["filename"] == "scan.png"
    assert document["id"].startswith("doc_")
    assert response.headers["Location"] == f"/v1/documents/{document['id']}"
    read = client.get(response.headers["Location"]).json
    assert (read["jobs"], read["page_counts"]) == ([], {})


def test_a_gif_of_many_frames_is_not_served(client: FlaskClient, model: str) -> None:
    frames = [Image.new("P", (2, 2), color) for color in range(2)] * 50
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    file.seek(0)
    response = client.post("/v1/jobs", data={"model": model, "prompt": "read", "file": (file, "a.gif")})
    assert response.status_code == 415
    assert "PNG" in response.json["error"]["message"]


@pytest.mark.parametrize("data", [b"plain text", b"PK\x03\x04", b"<svg/>"])
def test_what_is_no_picture_is_not_served(client: FlaskClient, model: str, data: bytes) -> None:
    response = client.post("/v1/jobs", data={"model": model, "prompt": "x", "file": (io.BytesIO(data), "a.png")})
    assert response.status_code == 415


def test_an_empty_file_is_refused(client: FlaskClient, model: str) -> None:
    response = client.post("/v1/jobs", data={"model": model, "prompt": "x", "file": (io.BytesIO(b""), "a.png")})
    assert error_of(response) == (400, "empty_image_file", "file")


def test_an_unknown_model(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    assert error_of(client.post("/v1/jobs", json=ask(model="nobody")))[:2] == (404, "model_not_found")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"not json",
        b'{"model": NaN}',
        b'{"model": Infinity}',
        b"\xff\xff",
        b"[" * 50_000,
        b"9" * 5000,
    ],
    ids=["empty", "cut", "words", "nan", "infinity", "not utf-8", "deep", "digits"],
)
def test_a_body_that_is_not_json(client: FlaskClient, raw: bytes) -> None:
    response = client.post("/v1/jobs", data=raw, content_type="application/json")
    assert error_of(response) == (400, "invalid_json", None)


@pytest.mark.parametrize("raw", [b"[]", b"null", b"4", b'"text"'])
def test_a_body_that_is_no_object(client: FlaskClient, raw: bytes) -> None:
    response = client.post("/v1/jobs", data=raw, content_type="application/json")
    assert error_of(response) == (400, "invalid_type", None)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("max_tokens", -1, "invalid_value"),
        ("max_tokens", 1e9, "invalid_value"),
        ("temperature", 1e400, "invalid_value"),
        ("stream", True, "invalid_value"),
        ("n", 2, "invalid_value"),
        ("max_token", 4, "unknown_parameter"),
        ("metadata", {"a": "\0"}, "invalid_characters"),
    ],
)
def test_a_bad_field_is_named(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], field: str, value: Any, code: str
) -> None:
    raw = json.dumps(ask(**{field: value})).replace("Infinity", "1e400")
    status, answered, param = error_of(client.post("/v1/jobs", data=raw, content_type="application/json"))
    assert (status, answered) == (400, code)
    assert param is not None
    assert param.startswith(field)


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud800", "\\udc00\\ud800"])
def test_nul_and_lone_surrogates_in_the_prompt(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], escape: str
) -> None:
    raw = json.dumps(ask("MARK")).replace("MARK", escape)
    response = client.post("/v1/jobs", data=raw, content_type="application/json")
    assert error_of(response) == (400, "invalid_characters", "messages.0.content")


def test_a_surrogate_in_the_schema_never_reaches_the_database(
    client: FlaskClient, ask: Callable[..., dict[str, Any]]
) -> None:
    body = ask(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"\ud800": 1}}})
    assert error_of(client.post("/v1/jobs", json=body))[:2] == (400, "invalid_characters")


def test_an_address_of_a_picture_is_not_fetched(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    content = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}]
    response = client.post("/v1/jobs", json=ask(content))
    assert error_of(response) == (400, "invalid_image_url", "messages.0.content.0.image_url.url")
    assert "169.254" not in response.get_data(as_text=True)


def test_a_picture_part_without_a_picture(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    response = client.post("/v1/jobs", json=ask([{"type": "image_url"}]))
    assert error_of(response) == (400, "missing_required_parameter", "messages.0.content.0.image_url")


def test_a_form_without_a_file(client: FlaskClient, model: str) -> None:
    response = client.post(
        "/v1/jobs", data={"model": model, "prompt": "x"}, content_type="multipart/form-data; boundary=b"
    )
    assert error_of(response) == (400, "missing_required_parameter", "file")


def test_a_file_under_another_name(client: FlaskClient, model: str, png: bytes) -> None:
    response = client.post("/v1/jobs", data={"model": model, "prompt": "x", "image": (io.BytesIO(png), "a.png")})
    assert error_of(response) == (400, "unknown_parameter", "image")
    assert "`file`" in response.json["error"]["message"]


def test_a_form_field_that_came_twice(client: FlaskClient, png: bytes) -> None:
    fields = {"model": ["a", "b"], "prompt": "x", "file": (io.BytesIO(png), "a.png")}
    assert error_of(client.post("/v1/jobs", data=fields)) == (400, "invalid_value", "model")


def test_a_form_without_a_boundary(client: FlaskClient) -> None:
    response = client.post("/v1/jobs", data=b"x", content_type="multipart/form-data")
    assert error_of(response) == (400, "invalid_form", "Content-Type")


def test_a_broken_form(client: FlaskClient) -> None:
    response = client.post("/v1/jobs", data=b"--b\r\nContent-Disp", content_type="multipart/form-data; boundary=b")
    assert response.status_code == 400


def test_a_pdf_beside_other_files(client: FlaskClient, model: str, png: bytes) -> None:
    files = [(io.BytesIO(PDF), "a.pdf"), (io.BytesIO(png), "a.png")]
    response = client.post("/v1/jobs", data={"model": model, "prompt": "x", "file": files})
    assert response.status_code == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_content_types(client: FlaskClient, kind: str) -> None:
    response = client.post("/v1/jobs", data=b"{}", content_type=kind)
    assert error_of(response) == (415, "unsupported_content_type", "Content-Type")
