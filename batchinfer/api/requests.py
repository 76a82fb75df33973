"""Around every request: its id in and out, its line in the log, the headers of its answer."""

from __future__ import annotations

import re
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING
from uuid import uuid4

from flask import g, request
from structlog.contextvars import bind_contextvars, clear_contextvars

from batchinfer.observe.clock import Stopwatch
from batchinfer.observe.logs import get_logger

if TYPE_CHECKING:
    from flask import Flask, Response

log = get_logger(__name__)
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


def _begin() -> None:
    sent = request.headers.get("X-Request-Id", "")
    g.request_id = sent if _REQUEST_ID.fullmatch(sent) else f"req_{uuid4().hex}"
    g.stopwatch = Stopwatch()
    clear_contextvars()
    bind_contextvars(request_id=g.request_id)


def _end(response: Response) -> Response:
    if response.status_code >= HTTPStatus.BAD_REQUEST:
        _drain()
    response.headers["x-request-id"] = g.request_id
    if rate := g.get("rate"):  # under OpenAI's names
        response.headers["x-ratelimit-limit-requests"] = str(rate.limit)
        response.headers["x-ratelimit-remaining-requests"] = str(rate.remaining)
        response.headers["x-ratelimit-reset-requests"] = f"{rate.reset_s:.0f}s"
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
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
