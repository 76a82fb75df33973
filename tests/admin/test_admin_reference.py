"""The API's page shows the whole document, to everybody, from this server alone."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.admin.reference import mark_code, tell_type
from batchinfer.web import create_app

if TYPE_CHECKING:
    from batchinfer.services.context import Context


@pytest.fixture
def anybody(context: Context) -> Any:
    """A client without a key or a session."""
    return create_app(context=context).test_client()


def test_every_operation_and_schema_of_the_document_is_on_the_page(anybody: Any) -> None:
    document = anybody.get("/openapi.json").json
    answer = anybody.get("/docs")
    page = answer.get_data(as_text=True)
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    ids = set(re.findall(r' id="([^"]+)"', page))
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    assert {one["operationId"] for one in operations} <= ids
    assert {f"schema-{name}" for name in document["components"]["schemas"]} <= ids
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets <= ids, "every link within the page leads somewhere"
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert all(one["summary"].replace("`", "") in text for one in operations)


def test_it_comes_from_this_server_under_the_strict_policy(anybody: Any) -> None:
    answer = anybody.get("/docs")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    page = answer.get_data(as_text=True)
    assert not re.search(r"<script(?![^>]*\ssrc=\"/admin/static/)", page), "no script of the page's own"
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page), "nothing from elsewhere"
    assert "style=" not in page
    for address in re.findall(r'(?:src|href)="(/admin/static/[^"]+)"', page):
        assert anybody.get(html.unescape(address), buffered=True).status_code == 200


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": ["integer", "null"]}, "integer or null"),
        ({"anyOf": [{"$ref": "#/components/schemas/A"}, {"type": "null"}]}, "A or null"),
        ({"type": "array", "items": {"type": "string"}}, "list of text"),
        ({"enum": ["a", 1]}, '"a" | 1'),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "object of number"),
        ({}, "anything"),
    ],
)
def test_types_are_told_in_words(schema: dict[str, Any], words: str) -> None:
    assert "".join(word.text for word in tell_type(schema)) == words


def test_text_is_escaped_and_backticks_are_code() -> None:
    assert mark_code("a `<b>` & c") == "a <code>&lt;b&gt;</code> &amp; c"
