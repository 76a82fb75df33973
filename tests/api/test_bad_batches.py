"""What a batch's file may hold to do harm: every line of it is named with a safe sentence, and nothing is made."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.services import work

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

NDJSON = "application/x-ndjson"
CHAT = "/v1/chat/completions"


def picture(data: bytes, media_type: str = "image/png") -> list[dict[str, Any]]:
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}]


def make_bad_lines(ask: Callable[..., dict[str, Any]]) -> list[tuple[Any, str]]:
    """Lines with the code that each is refused with."""
    png = picture(b"\x89PNG\r\n\x1a\n")
    return [
        (ask("a\0b"), "invalid_characters"),
        (json.dumps(ask("X")).replace("X", "\\ud800").encode(), "invalid_characters"),
        (ask("x" * 400_001), "prompt_too_long"),
        (ask(max_tokens=-1), "invalid_value"),
        (ask(max_tokens=10**9), "invalid_value"),
        (json.dumps(ask(max_tokens=float("nan"))).encode(), "invalid_json_line"),
        (json.dumps(ask(temperature=float("inf"))).encode(), "invalid_json_line"),
        (b'{"model": ' + b"9" * 5000 + b"}", "invalid_json_line"),
        (b"[" * 100_000 + b"]" * 100_000, "invalid_json_line"),
        (b'{"a": ' * 500 + b"1" + b"}" * 500, "unknown_parameter"),
        (b"\xff\xfe{}", "invalid_json_line"),
        (b"null", "invalid_json_line"),
        (ask(png * 2000), "invalid_value"),
        (ask(png * 100), "too_many_images"),
        (ask(picture(b"")), "empty_image_file"),
        (ask(picture(b"just text", "image/png")), "unsupported_media_type"),
        (ask(picture(b"%!PS-Adobe-3.0 EPSF-3.0\n")), "unsupported_media_type"),
        (ask(picture(b"8BPS\x00\x01" + b"\0" * 20)), "unsupported_media_type"),
        (ask([{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}]), "invalid_image_url"),
        (ask([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]), "invalid_image_url"),
        ({**ask(), "custom_id": "a\nb"}, "invalid_characters"),
        ({**ask(), "custom_id": "x" * 300}, "invalid_value"),
    ]


@pytest.mark.parametrize("endpoint", ["/v1/jobs", CHAT])
def test_every_kind_of_harm_is_named_and_nothing_is_made(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], cpu: Any, endpoint: str
) -> None:
    bad = make_bad_lines(ask)
    rows, codes = [], []
    for number, (row, code) in enumerate(bad):
        if endpoint == CHAT and isinstance(row, dict) and "custom_id" not in row:
            row = {"custom_id": f"n{number}", "method": "POST", "url": CHAT, "body": row}  # noqa: PLW2901
        elif endpoint == CHAT and not (isinstance(row, bytes) and code == "invalid_json_line"):
            continue  # its harm is in fields of a native line
        rows.append(row if isinstance(row, bytes) else json.dumps(row).encode())
        codes.append(code)
    lines = b"\n".join(rows)
    checked = client.post(f"/v1/batches/validate?endpoint={endpoint}", data=lines, content_type=NDJSON).json
    made = client.post(f"/v1/batches?endpoint={endpoint}", data=lines, content_type=NDJSON).json
    cpu.work_on(work.READ)
    found = client.get(f"/v1/batches/{made['id']}").json
    assert found["status"] == "failed"
    faults = found["errors"]["data"]
    assert [(fault["line"], fault["code"]) for fault in faults] == list(enumerate(codes, 1))
    assert checked["errors"] == found["errors"], "a dry run finds the same"
    for fault in faults:
        assert 10 < len(fault["message"]) < 400
        assert not any(
            leak in fault["message"] for leak in ("Traceback", "Error(", "/home", "site-packages", "psycopg")
        )
    assert client.get("/v1/jobs").json["data"] == []


def test_a_file_of_one_endless_line_is_read_no_further_than_a_line_may_be(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], cpu: Any
) -> None:
    """100 MB in one line, then a good one: the bad one alone is told, and the numbers stay those of the file."""
    lines = b'{"x": "' + b"A" * 100_000_000 + b'"}\n' + json.dumps(ask(colour=1)).encode()
    made = client.post("/v1/batches", data=lines, content_type=NDJSON).json
    cpu.work_on(work.READ)
    faults = client.get(f"/v1/batches/{made['id']}").json["errors"]["data"]
    assert [(fault["line"], fault["code"]) for fault in faults] == [(1, "line_too_large"), (2, "unknown_parameter")]
