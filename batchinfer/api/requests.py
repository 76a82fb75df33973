"""Around every request: its id in and out, its line in the log, the headers of its answer."""

from __future__ import annotations

import re
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING
from uuid import uuid4

from flask import g, request
from structlog.contextvars import bind_contextvars, clear_contextvars

from batchinfer.api.state import current
from batchinfer.domain.ids import JOB, show_id
from batchinfer.observe.clock import Stopwatch, utc_now
from batchinfer.observe.logs import get_logger
from batchinfer.observe.spans import EndedSpan
from batchinfer.observe.traces import begin_trace, new_span_id, new_trace, parse_trace

if TYPE_CHECKING:
    from uuid import UUID

    from flask import Flask, Response

log = get_logger(__name__)
_JOB_ID = re.compile(rf"{JOB}[0-9a-f]{{32}}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
#: Set where the answer does not set its own: the admin pages have a policy that lets their stylesheet in.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
#: Asked every few seconds by machines; logged at DEBUG.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/metrics/targets"})
#: What is read of a refused body, so that the client has sent it and reads why. A socket closed with more
#: unread would be reset, and the answer lost.
_DRAIN_BYTES, _DRAIN_S = 16 * 2**20, 5.0


def register_hooks(app: Flask) -> None:
    """Run `_begin` before everything else of a request and `_end` after it."""
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(lambda _error: begin_trace(None))


def _begin() -> None:
    sent = request.headers.get("X-Request-Id", "")
    g.request_id = sent if _REQUEST_ID.fullmatch(sent) else f"req_{uuid4().hex}"
    g.stopwatch = Stopwatch()
    clear_contextvars()
    came = parse_trace(request.headers.get("traceparent"), request.headers.get("tracestate"))
    g.caller_span_id = came.span_id if came else None
    g.trace = came.under(new_span_id()) if came else new_trace(current().context.settings.keep_ratio)
    g.begun_at = utc_now()
    begin_trace(g.trace)
    bind_contextvars(request_id=g.request_id, trace_id=g.trace.trace_id)
    asked = (request.view_args or {}).get("job_id", "")
    if _JOB_ID.fullmatch(asked):
        bind_contextvars(job_id=asked)


def mention_job(job_id: UUID) -> None:
    """Put the job on what this request logs from now on."""
    bind_contextvars(job_id=show_id(JOB, job_id))


def _end(response: Response) -> Response:
    if response.status_code >= HTTPStatus.BAD_REQUEST:
        _drain()
    response.headers["x-request-id"] = g.request_id
    response.headers["traceresponse"] = g.trace.parent
    if rate := g.get("rate"):  # under OpenAI's names
        response.headers["x-ratelimit-limit-requests"] = str(rate.limit)
        response.headers["x-ratelimit-remaining-requests"] = str(rate.remaining)
        response.headers["x-ratelimit-reset-requests"] = f"{rate.reset_s:.0f}s"
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    _tell_span(response.status_code)
    write = log.debug if request.path in _QUIET else log.info
    write(
        "answered",
        method=request.method,
        # The rule, not the path: a path may hold what a user typed.
        route=str(request.url_rule) if request.url_rule else None,
        status=response.status_code,
        ms=round(g.stopwatch.elapsed_s * 1000, 1),
    )
    return response


def _tell_span(status: int) -> None:
    """The span of a request that may make something; those that look are many, and poll."""
    tracer = current().context.tracer
    if tracer is None or request.method in {"GET", "HEAD", "OPTIONS"} or request.url_rule is None:
        return
    facts: dict[str, str | int] = {
        "http.request.method": request.method,
        "http.route": str(request.url_rule),
        "http.response.status_code": status,
        "batchinfer.request_id": g.request_id,
    }
    tracer.note_span(
        EndedSpan(
            f"{request.method} {request.url_rule}",
            g.trace.under(g.caller_span_id or g.trace.span_id),
            g.trace.span_id,
            g.begun_at,
            utc_now(),
            facts,
            str(status) if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None,
            is_root=g.caller_span_id is None,
            kind="server",
        )
    )


def _drain() -> None:
    """Read and drop what is left of the body, up to a limit; only where the server marks its end."""
    if not request.environ.get("wsgi.input_terminated"):
        return
    stream, watch, left = request.environ["wsgi.input"], Stopwatch(), _DRAIN_BYTES
    with suppress(OSError, ValueError):  # the client left, or what it sent was no body
        while left > 0 and watch.elapsed_s < _DRAIN_S:
            piece = stream.read(min(left, 2**16))
            if not piece:
                return
            left -= len(piece)
