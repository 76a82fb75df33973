"""One try to hand an event to its endpoint: signed, sent through the guarded door, and what came of it noted.

Any 2xx ends the delivery, whatever follows it; 410 disables the endpoint; everything else, a redirect too, is tried
again. What the receiver says is not kept: it would show users what lies behind an address.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from batchinfer import __version__
from batchinfer.domain.addresses import parse_web_url
from batchinfer.domain.spans import find_job_span
from batchinfer.domain.webhooks import encode_event, find_reach, list_secrets, sign_event
from batchinfer.errors import BadRequest, Failure
from batchinfer.media.outward import OutwardError
from batchinfer.observe.clock import Stopwatch, utc_now
from batchinfer.observe.logs import get_logger
from batchinfer.observe.spans import EndedSpan, Fact
from batchinfer.observe.traces import decode_trace, derive_span_id
from batchinfer.store import webhooks as store
from batchinfer.store.events import Event, record

if TYPE_CHECKING:
    from datetime import datetime

    from batchinfer.domain.webhooks import Endpoint
    from batchinfer.services.context import Context
    from batchinfer.store.outbox import Delivery

#: The subject of a delivery that somebody asked for to see whether it arrives.
TEST = "test"
ACTOR = "deliveries"
#: Of an answer: what is read so that the receiver can end in peace, and what may come at all with its head.
_READ_BYTES, _MOST_BYTES = 4 * 1024, 256 * 1024
#: `Retry-After` is believed up to here.
_LONGEST_PAUSE_S = 3600.0
_GONE = 410
_NO_REDIRECTS = " Redirects are not followed: give the endpoint the URL that it leads to."

_log = get_logger(__name__)


class Postponed(Exception):
    """It was not tried: its receiver is left alone for now."""


class NotTaken(Failure):
    """The receiver did not take it; it may another time. `timings` are those of the try, with its status if any."""

    retry_helps = True

    def __init__(self, message: str, *, code: str, timings: dict[str, float]) -> None:
        super().__init__(message, code=code)
        self.timings = timings


class RefusedForGood(NotTaken):
    """The receiver did not take it, and it is not tried again."""

    retry_helps = False


def send_event(ctx: Context, delivery: Delivery) -> dict[str, float]:
    """Try once. Answers the status of the answer, and the seconds that it took.

    Raises NotTaken; Postponed while the endpoint is paused or disabled; Failure where it is no longer there.
    """
    endpoint = _find(ctx, delivery)
    test = delivery.subject == TEST
    if endpoint.held and not test:
        raise Postponed
    begun_at = utc_now()
    try:
        timings = _post(ctx, endpoint, delivery)
        _tell_span(ctx, delivery, begun_at, None)
        return timings
    except _Failed as failed:
        _tell_span(ctx, delivery, begun_at, failed.code)
        error = NotTaken if failed.status != _GONE and not test else RefusedForGood
        raised = error(failed.message, code=failed.code, timings=failed.timings)
        if not test:
            _note(ctx, endpoint, failed, raised)
        raise raised from None


class _Failed(Exception):
    """How a try failed; `pause_s` is what the receiver asked for."""

    def __init__(self, message: str, took_s: float, *, code: str, status: int = 0, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.message, self.code, self.status, self.pause_s = message, code, status, pause_s
        self.timings = {"seconds": took_s, **({"status": float(status)} if status else {})}


def _find(ctx: Context, delivery: Delivery) -> Endpoint:
    with ctx.db.transaction() as tx:
        found = delivery.endpoint_id and store.find_endpoint(tx, delivery.tenant_id, delivery.endpoint_id)
    if not found:
        raise Failure("The webhook endpoint was deleted.", code="webhook_endpoint_deleted")
    return found


def _post(ctx: Context, endpoint: Endpoint, delivery: Delivery) -> dict[str, float]:
    watch, now = Stopwatch(), utc_now()
    body = encode_event(delivery.payload)
    signature = sign_event(
        body, event_id=delivery.payload["id"], timestamp=int(now.timestamp()), secrets_=list_secrets(endpoint, now)
    )
    headers = {"Content-Type": "application/json", "User-Agent": f"batchinfer/{__version__}", **signature}
    if trace := decode_trace(delivery.trace):
        headers |= trace.under(_find_span(delivery)).headers
    try:
        reach = find_reach(ctx.settings)
        url = parse_web_url(endpoint.url, reach, param="url")  # what the operator permits may have changed since
        with ctx.door.open(
            "POST",
            url,
            reach,
            total_s=ctx.settings.webhook_timeout_s,
            most_bytes=_MOST_BYTES,
            headers=headers,
            body=body,
        ) as exchange:
            status, said = exchange.status, exchange.headers
            with suppress(OutwardError):
                exchange.read(_READ_BYTES)
    except OutwardError as error:
        raise _Failed(str(error), watch.elapsed_s, code="webhook_not_reached") from None
    except BadRequest:
        sentence = "The URL is no longer permitted here."
        raise _Failed(sentence, watch.elapsed_s, code="webhook_not_reached") from None
    if not 200 <= status < 300:
        sentence = f"The receiver answered {status}, not 2xx." + (_NO_REDIRECTS if 300 <= status < 400 else "")
        pause_s = _read_pause_s(status, said)
        raise _Failed(sentence, watch.elapsed_s, code="webhook_status", status=status, pause_s=pause_s)
    return {"status": float(status), "seconds": watch.elapsed_s}


def _find_span(delivery: Delivery) -> str:
    return derive_span_id("delivery", delivery.id.hex, delivery.attempts)


def _tell_span(ctx: Context, delivery: Delivery, begun_at: datetime, code: str | None) -> None:
    trace = decode_trace(delivery.trace)
    if ctx.tracer is None or trace is None:
        return
    parent = trace.under(find_job_span(delivery.subject_id)) if delivery.subject == "job" else trace
    facts: dict[str, Fact] = {
        "batchinfer.event_type": str(delivery.payload.get("type")),
        "batchinfer.attempt": delivery.attempts,
    }
    ctx.tracer.note_span(
        EndedSpan("deliver", parent, _find_span(delivery), begun_at, utc_now(), facts, code, kind="client")
    )


def _read_pause_s(status: int, headers: dict[str, str]) -> float:
    """The seconds of a `Retry-After` with 429 or 503; 0 without one, or for a date."""
    text = headers.get("retry-after", "")
    asked = status in {429, 503} and text.isascii() and text.isdigit() and len(text) < 9
    return min(float(text), _LONGEST_PAUSE_S) if asked else 0.0


def _note(ctx: Context, endpoint: Endpoint, failed: _Failed, error: NotTaken) -> None:
    """What the failure means for the endpoint and for what waits for it."""
    with ctx.db.transaction() as tx:
        setback = store.note_failure(
            tx,
            endpoint.id,
            error={"code": error.code, "message": error.message},
            gone=failed.status == _GONE,
            pause_s=failed.pause_s,
            patience_s=ctx.settings.webhook_patience_hours * 3600,
        )
        if setback and setback.disabled:
            data = {"reason": setback.disabled_reason}
            record(tx, [Event(setback.tenant_id, "webhook_endpoint", endpoint.id, "disabled", ACTOR, data)])
    if setback and setback.disabled:
        _log.warning("a webhook endpoint is disabled", endpoint_id=str(endpoint.id), reason=setback.disabled_reason)
