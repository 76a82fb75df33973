"""Whatever is sent, the answer is never a fault of ours: no 500, and always the one body of errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
ANY_JSON = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3), max_leaves=8
)
FIELDS = ["model", "messages", "max_tokens", "seed", "stop", "metadata", "response_format", "expires_in", "class"]
#: The database and the application are the test's own; one for all examples.
ONCE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
CALM = settings(max_examples=80, deadline=None, suppress_health_check=ONCE)


def check(answer: Any) -> None:
    assert answer.status_code < 500, answer.get_data(as_text=True)
    if answer.status_code >= 400:
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}


@given(change=st.dictionaries(st.sampled_from(FIELDS) | ANY_TEXT, ANY_JSON, max_size=3))
@example(change={"metadata": {"a": "\uffff\U0010ffff"}})
@example(change={"seed": 2**63 - 1, "expires_in": 2592000, "stop": ["\x01"]})
@CALM
def test_any_body(client: FlaskClient, ask: Callable[..., dict[str, Any]], change: dict[str, Any]) -> None:
    body = json.dumps(ask() | change)
    check(client.post("/v1/jobs", data=body, content_type="application/json"))


@given(text=ANY_TEXT)
@CALM
def test_any_text_is_kept_or_refused(client: FlaskClient, ask: Callable[..., dict[str, Any]], text: str) -> None:
    answer = client.post("/v1/jobs", json=ask(metadata={"note": text}))
    check(answer)
    if answer.status_code == 202:
        assert client.get(answer.headers["Location"]).json["metadata"] == {"note": text}


@given(
    path=st.sampled_from(["/v1/jobs", "/v1/documents", "/v1/jobs/job_" + "0" * 32]),
    query=st.dictionaries(
        st.sampled_from(["limit", "after", "status", "model", "document", "wait"]) | ANY_TEXT, ANY_TEXT, max_size=3
    ),
)
@CALM
def test_any_query(client: FlaskClient, path: str, query: dict[str, str]) -> None:
    sent = {name.encode("utf-8", "replace"): text.encode("utf-8", "replace") for name, text in query.items()}
    check(client.get(path, query_string={**sent, b"wait": b"-1"} if "job_" in path else sent))


@given(data=st.binary(max_size=200), prompt=ANY_TEXT.filter(lambda text: text.isprintable() or not text))
@example(data=b"%PDF-1.4\0\0", prompt="x")
@example(data=b"\xff\xd8\xff\xe0\0", prompt="x")
@CALM
def test_any_file(client: FlaskClient, model: str, data: bytes, prompt: str) -> None:
    head = (
        f'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'
        f'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n{prompt}\r\n'
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    body = head.encode("utf-8", "replace") + data + b"\r\n--b--\r\n"
    check(client.post("/v1/jobs", data=body, content_type="multipart/form-data; boundary=b"))
