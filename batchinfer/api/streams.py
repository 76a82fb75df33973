"""Server-sent events of a chat completion that is streamed. The text that counts is the one in Postgres.

Whatever goes wrong before the first byte is answered as any error is; after it, as an `error` event, which OpenAI's
SDK raises.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING, Any

from flask import Response, g
from flask.json import dumps

from batchinfer.api.answers import show_chunk, show_last_chunks
from batchinfer.api.auth import caller
from batchinfer.api.patience import take_place
from batchinfer.api.requests import mention_job
from batchinfer.api.state import current
from batchinfer.errors import BatchinferError, Internal
from batchinfer.observe.logs import get_logger
from batchinfer.services import answers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from batchinfer.domain.chat import ChatRequest
    from batchinfer.domain.jobs import Job
    from batchinfer.services.context import Idempotency

log = get_logger(__name__)
_KEEP_ALIVE = ": keep-alive\n\n"
#: No proxy may gather events; the connection is this answer's own.
HEADERS = {"X-Accel-Buffering": "no"}


def stream_chat(chat: ChatRequest, idempotency: Idempotency | None, wait_s: float) -> Response:
    """Submit the job and answer with its text as it is made. Raises what answers.submit and a failed job raise."""
    context, who = current().context, caller()
    with ExitStack() as stack:
        stack.enter_context(take_place())
        request, ear = stack.enter_context(answers.listening(context, chat.job))
        job, replayed = answers.submit(context, who, request, idempotency)
        mention_job(job.id)
        pieces = answers.follow_answer(context, who, job.id, wait_s, ear)
        events = _write_events(job, pieces, include_usage=chat.include_usage, request_id=g.request_id)
        first = next(events)  # what fails before it is answered with a status
        held = stack.pop_all()
    response = Response(chain([first], closing(events, held)), mimetype="text/event-stream", headers=HEADERS)
    response.call_on_close(events.close)
    response.call_on_close(held.close)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def closing(events: Iterator[str], held: ExitStack) -> Iterator[str]:
    """The events, and the place given back as soon as they are over: not every server closes at once."""
    with held:
        yield from events


def _write_events(
    job: Job, pieces: Generator[str | None, None, Job], *, include_usage: bool, request_id: str
) -> Generator[str, None, None]:
    """Events from pieces. Raises what comes before the first event."""
    begun = spoken = False
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            ended: Job = end.value
            break
        except Exception as error:
            if not begun:
                raise
            yield _event({"error": _show_late_error(error, request_id)})
            return
        if piece is None:
            yield _KEEP_ALIVE
        else:
            delta = {"content": piece} if spoken else {"role": "assistant", "content": piece}
            yield _event(show_chunk(job, delta))
            spoken = True
        begun = True
    if not spoken:  # an empty answer
        yield _event(show_chunk(ended, {"role": "assistant", "content": ""}))
    for chunk in show_last_chunks(ended, include_usage=include_usage):
        yield _event(chunk)
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {dumps(body, sort_keys=False)}\n\n"


def _show_late_error(error: Exception, request_id: str) -> dict[str, Any]:
    if not isinstance(error, BatchinferError):
        log.error("a stream failed", exc_info=error)
        error = Internal(f"Something broke on our side. The log has it under request id {request_id}.")
    return error.as_dict()
