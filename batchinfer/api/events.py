"""Events over HTTP: changes of state by pages, and as a stream that ends after some minutes and is resumed."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller, find_validity
from batchinfer.api.bodies import reply
from batchinfer.api.lists import read_cursor
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.patience import find_presence
from batchinfer.api.queries import EventsQuery
from batchinfer.api.schemas import EventBody, EventList, EventSubject
from batchinfer.api.state import current
from batchinfer.api.streams import HEADERS, closing
from batchinfer.domain.changes import Change, Position
from batchinfer.domain.ids import BATCH, EVENT, JOB, show_id
from batchinfer.observe.clock import Stopwatch, to_unix
from batchinfer.services import changes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from batchinfer.services.changes import Changes

routes = APIBlueprint(
    "events",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "events"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
#: After so long a stream ends, and its client opens it again behind the last event: threads come free, keys are asked.
LIFE_S = 300.0
HEARTBEAT_S = 15.0
_RETRY_MS = 2000
_PREFIXES = {"job": JOB, "batch": BATCH}
_NOW = "now"
_STREAM = "text/event-stream"


@routes.get("/events", operation_id="list_events", responses={200: EventList, **refusals(429)})
def list_events(query: EventsQuery) -> Response:
    """Changes of state of jobs and batches, oldest first, each once.

    With `Accept: text/event-stream` they come as server-sent events, from now on unless `Last-Event-ID` or `after` says
    behind which. A stream ends after five minutes; a browser's EventSource opens it again by itself.
    """
    if _STREAM in request.headers.get("Accept", ""):
        return _stream(request.headers.get("Last-Event-ID") or query.after or _NOW)
    page = changes.list_changes(current().context, caller(), _read_position(query.after), limit=query.limit)
    data = [_show(change) for change in page.data]
    return reply(
        EventList(
            data=data,
            has_more=page.has_more,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            next_after=show_id(EVENT, page.after.as_id()),
        )
    )


def _read_position(text: str | None) -> Position | None:
    if text == _NOW:
        return changes.find_end(current().context, caller())
    value = read_cursor(EVENT, text)
    return None if value is None else Position.parse(value)


def _show(change: Change) -> EventBody:
    return EventBody(
        id=show_id(EVENT, change.position.as_id()),
        type=f"{change.subject}.{change.state}",
        created_at=to_unix(change.created_at) or 0,
        data=EventSubject(id=show_id(_PREFIXES[change.subject], change.subject_id)),
    )


def _stream(after: str) -> Response:
    state, who = current(), caller()
    position = _read_position(after)
    is_present, is_valid = find_presence(), find_validity()
    with ExitStack() as stack:
        stack.enter_context(state.streams.enter(who.key_id))
        beat = Stopwatch()

        def wanted() -> bool:
            nonlocal beat
            if beat.elapsed_s < HEARTBEAT_S:
                return is_present()
            beat = Stopwatch()
            return is_present() and is_valid()

        pages = changes.follow_changes(state.context, who, position or Position(0, 0, 0), LIFE_S, wanted)
        events = _write(pages)
        first = next(events)  # what fails before it is answered with a status
        held = stack.pop_all()
    response = Response(chain([first], closing(events, held)), mimetype=_STREAM, headers=HEADERS)
    response.call_on_close(events.close)
    response.call_on_close(held.close)
    return response


def _write(pages: Iterator[Changes]) -> Generator[str, None, None]:
    """Pages as server-sent events. A sign of life carries where to go on, too: an id without data is no event."""
    said = Stopwatch()
    for number, page in enumerate(pages):
        text = "".join(_write_event(_show(change)) for change in page.data)
        if not text and number and said.elapsed_s < HEARTBEAT_S:
            continue
        begin = "" if number else f"retry: {_RETRY_MS}\n"
        yield f"{begin}{text}: go on\nid: {show_id(EVENT, page.after.as_id())}\n\n"
        said = Stopwatch()


def _write_event(event: EventBody) -> str:
    return f"id: {event.id}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n"
