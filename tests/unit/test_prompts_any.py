"""Whatever comes, the parsers answer with a request that can be stored, or with BadRequest."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchinfer.domain.fields import decode_json
from batchinfer.domain.prompts import (
    FORM_FIELDS,
    JOB_FIELDS,
    JobRequest,
    Limits,
    Upload,
    parse_form,
    parse_job,
)
from batchinfer.errors import BadRequest

LIMITS = Limits(default_max_tokens=512, max_tokens=4096, max_prompt_chars=1000, max_images=3, max_body_bytes=1_000_000)
#: Every code point, lone surrogates too.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
ANY_JSON = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=15,
)
URLS = st.sampled_from(["data:image/png;base64,QUJD", "data:;base64,", "http://a", "data:x;base64,Q"]) | ANY_TEXT
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "file", "x"])},
    optional={
        "text": ATOMS,
        "image_url": st.fixed_dictionaries({"url": URLS}, optional={"detail": ATOMS}) | ANY_JSON,
        "file": st.fixed_dictionaries({"file_data": URLS}, optional={"filename": ATOMS}) | ANY_JSON,
    },
)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "system", "assistant"]) | ATOMS,
        "content": st.lists(PART, max_size=3) | ATOMS,
    }
)
NEAR = st.fixed_dictionaries(
    {"model": ANY_TEXT | ATOMS, "messages": st.lists(MESSAGE, max_size=3) | ANY_JSON},
    optional=dict.fromkeys(sorted(JOB_FIELDS - {"model", "messages"}), ANY_JSON),
)
CALM = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def store(request: JobRequest) -> None:
    """What becomes of a request must fit into Postgres: UTF-8, no NUL, finite numbers, indexes that exist."""
    kept: dict[str, Any] = {name: value for name, value in vars(request).items() if name != "uploads"}
    text = json.dumps(kept, allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in text
    text.encode("utf-8")
    places = [part["index"] for m in request.messages for part in m["content"] if part["type"] == "image"]
    assert places == list(range(len(request.uploads)))
    assert 1 <= request.max_tokens <= LIMITS.max_tokens


@given(ANY_JSON | NEAR)
@CALM
def test_any_json_parses_or_is_refused(body: object) -> None:
    with contextlib.suppress(BadRequest):
        store(parse_job(body, LIMITS))


@given(NEAR)
@CALM
def test_a_refusal_can_be_sent_back(body: object) -> None:
    error = None
    try:
        parse_job(body, LIMITS)
    except BadRequest as raised:
        error = raised.as_dict()
    json.dumps(error, ensure_ascii=False).encode("utf-8")
    assert error is None or 10 < len(error["message"]) < 600


@given(
    st.dictionaries(st.sampled_from(sorted(FORM_FIELDS)) | ANY_TEXT, ANY_TEXT | ANY_JSON.map(json.dumps), max_size=8),
    st.lists(st.builds(Upload, st.binary(max_size=8), st.none() | ANY_TEXT, st.just("file")), max_size=4),
)
@CALM
def test_any_form_parses_or_is_refused(fields: dict[str, str], uploads: list[Upload]) -> None:
    for given_fields in (fields, {"model": "m", "prompt": "p", **fields}):
        with contextlib.suppress(BadRequest):
            store(parse_form(given_fields, uploads, LIMITS))


@given(st.binary(max_size=60) | ANY_JSON.map(json.dumps).map(str.encode))
@CALM
def test_any_bytes_decode_or_are_refused(raw: bytes) -> None:
    with contextlib.suppress(BadRequest):
        decode_json(raw)
