"""Whatever stands in the body of a chat completion or a response, it is a job or an error that names a field."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchinfer.domain.chat import UNSERVED, parse_chat
from batchinfer.domain.limits import Limits
from batchinfer.domain.responses import parse_response
from batchinfer.errors import BadRequest
from batchinfer.settings import Settings

LIMITS = Limits.of(Settings())
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
WORDS = st.sampled_from(["user", "developer", "text", "input_text", "input_image", "image_url", "file", "message"])
KEYS = st.sampled_from(["role", "content", "type", "text", "image_url", "file", "url", "format", "tool_calls"])
ANY = st.recursive(
    ATOMS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [*UNSERVED, "messages", "input", "instructions", "text", "stream", "stream_options", "background", "class"]
FIELDS += ["service_tier", "max_tokens", "max_output_tokens", "response_format", "metadata", "stop"]


@given(change=st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=4))
@example(
    change={"input": [{"role": "user", "content": [{"type": "input_image", "image_url": {}}]}], "instructions": "x"}
)
@example(change={"messages": [{"role": [], "content": [{"type": {}}]}]})
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("parse", [parse_chat, parse_response])
def test_any_body(parse: Any, change: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "input": "hi", **change}
    with suppress(BadRequest):
        assert parse(body, LIMITS).job.messages
