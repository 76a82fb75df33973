"""Events as a client reads and follows them."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.api import events
from batchinfer.domain.ids import new_id
from batchinfer.errors import Busy, Unavailable
from batchinfer.services import changes, keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask.testing import FlaskClient
    from flask_openapi.openapi import OpenAPI

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of two seconds."""
    monkeypatch.setattr(events, "LIFE_S", 2.0)
    monkeypatch.setattr(changes, "LOOK_S", 0.05)


def read_stream(answer: Any) -> list[dict[str, str]]:
    """The events of a stream as an EventSource sees them: those with data; the last id is put beside."""
    found, last = [], ""
    for block in answer.get_data(as_text=True).split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        last = fields.get("id", last)
        if "data" in fields:
            found.append(fields)
    return [*found, {"id": last}]


def test_pages_of_events(
    client: FlaskClient, stranger: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any
) -> None:
    ids = [client.post("/v1/jobs", json=ask()).json["id"] for _ in range(3)]
    worker.answer_all()
    found, after = [], ""
    while True:
        page = client.get(f"/v1/events?limit=2{after}").json
        found += page["data"]
        after = f"&after={page['next_after']}"
        if not page["has_more"]:
            break
    assert [(e["type"], e["data"]["id"]) for e in found] == [
        (kind, job_id) for kind in ("job.queued", "job.succeeded") for job_id in ids
    ]
    assert len({e["id"] for e in found}) == 6
    assert (page["object"], found[0]["object"]) == ("list", "event")
    again = client.get(f"/v1/events?after={found[3]['id']}").json
    assert again["data"] == found[4:]
    assert (again["first_id"], again["last_id"]) == (found[4]["id"], found[5]["id"])
    empty = client.get("/v1/events?after=now").json
    assert (empty["data"], empty["last_id"], empty["next_after"]) == ([], None, page["next_after"])
    assert stranger.get("/v1/events").json["data"] == []
    assert stranger.get(f"/v1/events?after={found[0]['id']}").json["data"] == []


@pytest.mark.parametrize(
    ("after", "code"), [("job_" + "0" * 32, "invalid_cursor"), ("evt_" + "f" * 32, "invalid_cursor")]
)
@pytest.mark.parametrize("headers", [{}, STREAM], ids=["page", "stream"])
def test_a_cursor_that_is_none(client: FlaskClient, after: str, code: str, headers: dict[str, str]) -> None:
    answer = client.get(f"/v1/events?after={after}", headers=headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (400, code)


def test_a_stream_brings_what_comes_and_is_resumed(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    before = client.post("/v1/jobs", json=ask()).json["id"]
    answer = client.get("/v1/events", headers=STREAM, buffered=False)
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["X-Accel-Buffering"] == "no"
    first = client.post("/v1/jobs", json=ask()).json["id"]
    seen = read_stream(answer)
    assert [(e["event"], json.loads(e["data"])["data"]["id"]) for e in seen[:-1]] == [("job.queued", first)]
    assert json.loads(seen[0]["data"])["id"] == seen[0]["id"]
    missed = client.post("/v1/jobs", json=ask()).json["id"]
    more = read_stream(client.get("/v1/events", headers={**STREAM, "Last-Event-ID": seen[-1]["id"]}))
    assert [json.loads(e["data"])["data"]["id"] for e in more[:-1]] == [missed]
    whole = read_stream(client.get(f"/v1/events?after=evt_{'0' * 32}", headers=STREAM))
    assert [json.loads(e["data"])["data"]["id"] for e in whole[:-1]] == [before, first, missed]


def test_a_stream_says_that_it_lives(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.3)
    text = client.get("/v1/events", headers=STREAM).get_data(as_text=True)
    assert text.startswith("retry: 2000\n")
    assert text.count(": go on\nid: evt_") >= 3
    assert "data:" not in text


def test_a_stream_ends_with_its_key(
    make_client: Callable[[str | None], FlaskClient], context: Any, caller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LIFE_S", 60.0)
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.2)
    key, token = keys.create_key(context, "short", ["read"])
    answer = make_client(token).get("/v1/events", headers=STREAM, buffered=False)
    started = time.monotonic()
    threading.Timer(0.5, lambda: keys.revoke_key(context, caller, key.id)).start()
    answer.get_data()
    assert time.monotonic() - started < 50


@pytest.fixture
def held(app: OpenAPI) -> Iterator[Callable[[Any], None]]:
    """Take the place of a stream of a key until the test ends."""
    with ExitStack() as stack:
        yield lambda key_id: stack.enter_context(app.extensions["batchinfer"].streams.enter(key_id))


def test_streams_are_capped(
    app: OpenAPI, client: FlaskClient, caller: Any, held: Callable[[Any], None], ask: Callable[..., dict[str, Any]]
) -> None:
    streams, waiters = app.extensions["batchinfer"].streams, app.extensions["batchinfer"].waiters
    assert (waiters.places, streams.places, streams.of_a_key) == (4, 2, 1)
    held(caller.key_id)
    mine = client.get("/v1/events", headers=STREAM)
    assert (mine.status_code, mine.json["error"]["code"]) == (429, "too_many_streams")
    held(new_id())
    with pytest.raises(Unavailable):
        held(new_id())
    with pytest.raises(Busy):
        held(caller.key_id)
    assert int(mine.headers["Retry-After"]) > 0
    assert mine.headers["x-should-retry"] == "true"
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    assert client.get("/v1/events").status_code == 200, "pages need no place"
    with waiters.try_enter() as one, waiters.try_enter() as two, waiters.try_enter() as three:
        assert (one, two, three) == (True, True, False), "half of the places are left to those who wait for a job"
    assert client.get(f"/v1/jobs/{job_id}?wait=0.1").status_code == 200


def test_where_all_wait_no_stream_opens(app: OpenAPI, client: FlaskClient) -> None:
    waiters = app.extensions["batchinfer"].waiters
    with ExitStack() as stack:
        assert all(stack.enter_context(waiters.try_enter()) for _ in range(waiters.places))
        answer = client.get("/v1/events", headers=STREAM)
        assert (answer.status_code, answer.json["error"]["code"]) == (503, "too_many_waiting")
    for _ in range(3):  # every end gives its place back, a refused one too
        assert client.get("/v1/events", headers=STREAM).status_code == 200
