"""Webhooks: which events there are, the endpoints that hear of them, and Standard Webhooks' signatures.

An event is thin, as OpenAI's: it names what ended and how, and whoever hears of it asks for the rest.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.domain.addresses import Reach, parse_networks, parse_web_url
from batchinfer.domain.batches import TERMINAL as BATCH_TERMINAL
from batchinfer.domain.fields import (
    check_plain,
    join,
    read_flag,
    read_list,
    read_object,
    read_text,
    read_word,
    refuse,
    refuse_unknown,
    require,
)
from batchinfer.domain.ids import EVENT, show_id
from batchinfer.domain.jobs import TERMINAL, JobState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from batchinfer.settings import Settings

#: Endpoints that a tenant may have: each event becomes a delivery to every one that wants it.
MAX_ENDPOINTS = 16
#: Failures in a row that cost an endpoint nothing but their own retries; each further one doubles its pause.
SPARED_FAILURES = 3
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 3600.0
#: An endpoint is not disabled for failing long before it has failed so often.
LEAST_FAILURES = 10
#: How long the former secret signs too, where that is asked for.
OVERLAP_HOURS = 24

_RESPONSES = {
    JobState.SUCCEEDED: "completed", JobState.CANCELLED: "cancelled", JobState.FAILED: "failed",
    JobState.EXPIRED: "failed", JobState.QUARANTINED: "failed",
}  # fmt: skip
#: How a run ends; `completed` also with errors.
RUN_EVENTS = ("run.cancelled", "run.completed", "run.expired", "run.failed", "run.missed", "run.skipped")
#: A run has paused itself.
RUN_STOPPED = "run.stopped"
EVENT_TYPES = (
    *(f"batch.{status}" for status in sorted(BATCH_TERMINAL)),
    *(f"response.{word}" for word in ("cancelled", "completed", "failed", "incomplete")),
    *(f"job.{state}" for state in sorted(TERMINAL)),
    *RUN_EVENTS,
    "run.shard_sealed",
    RUN_STOPPED,
)
_SECRET_PREFIX, _SECRET_BYTES = "whsec_", 32
_MAX_NAME_CHARS = 256
_ORDER = ("id", "object", "created_at", "type", "data")


@dataclass(frozen=True)
class Endpoint:
    """A URL of a tenant's that events are sent to. Times are aware UTC."""

    id: UUID
    tenant_id: UUID
    name: str
    url: str
    event_types: tuple[str, ...]
    secret: str
    created_at: datetime
    #: The last change of what its owner set, or of the secret.
    updated_at: datetime
    #: Signs too until `old_secret_until`.
    old_secret: str | None = None
    old_secret_until: datetime | None = None
    #: Failed tries since the last that was taken, and the first of them.
    failures: int = 0
    failing_since: datetime | None = None
    #: Nothing is sent before; far away while it is disabled.
    held_until: datetime | None = None
    #: Whether that is still to come, by the database's clock.
    held: bool = False
    disabled_at: datetime | None = None
    #: gone (it answered 410) or failing; None while it is enabled.
    disabled_reason: str | None = None
    last_error: dict[str, Any] | None = None

    @property
    def status(self) -> str:
        """enabled or disabled."""
        return "enabled" if self.disabled_at is None else "disabled"


@dataclass(frozen=True)
class EndpointRequest:
    """What a user sets of an endpoint; None is left as it is."""

    name: str | None = None
    url: str | None = None
    event_types: tuple[str, ...] | None = None


def find_reach(settings: Settings) -> Reach:
    """Where webhooks may go."""
    return Reach(settings.webhook_http, parse_networks(settings.webhook_networks))


def parse_endpoint(body: object, reach: Reach, *, whole: bool) -> EndpointRequest:
    """The body of a creation (`whole`: every field is needed) or of a change. Raises BadRequest."""
    check_plain(body)
    given = read_object(body, "body")
    refuse_unknown(given, ("name", "url", "event_types"))
    if whole:
        require(given, "name", "Call it something.")
        require(given, "url", "Send the https:// URL that is to be called.")
        require(given, "event_types", f"Send a list, as [`{EVENT_TYPES[0]}`].")
    name, url, types = (given.get(field) for field in ("name", "url", "event_types"))
    return EndpointRequest(
        None if name is None else read_text(name, "name", max_chars=_MAX_NAME_CHARS),
        None if url is None else str(parse_web_url(read_text(url, "url", max_chars=10_000), reach, param="url")),
        None if types is None else _parse_types(types),
    )


def _parse_types(value: object) -> tuple[str, ...]:
    given = read_list(value, "event_types")
    if not given:
        refuse("event_types", "must not be empty.")
    if len(given) > len(EVENT_TYPES):
        refuse("event_types", "names an event more than once.")
    found = [read_word(word, join("event_types", index), EVENT_TYPES) for index, word in enumerate(given)]
    return tuple(dict.fromkeys(found))


def parse_rotation(body: object) -> bool:
    """The body of a rotation: whether the former secret signs on for 24 hours. Raises BadRequest."""
    given = read_object(body, "body")
    field = "keep_old_secret_active_for_24_hours"
    refuse_unknown(given, (field,))
    return given.get(field) is not None and read_flag(given[field], field)


def parse_test(body: object) -> str | None:
    """The body of a test: the type of its event, or None for one that the endpoint wants. Raises BadRequest."""
    given = read_object(body, "body")
    refuse_unknown(given, ("event_type",))
    said = given.get("event_type")
    return None if said is None else read_word(said, "event_type", EVENT_TYPES)


def find_response_type(state: JobState, finish_reason: str | None) -> str:
    """The event of a job's end, the job seen as a response."""
    cut = state is JobState.SUCCEEDED and finish_reason == "length"
    return f"response.{'incomplete' if cut else _RESPONSES[state]}"


def make_event(
    event_id: UUID, event_type: str, shown_id: str, created_at: datetime, data: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """An event as it is sent; `shown_id` is what it is about, as users see its id; `data` stands beside it."""
    return {
        "id": show_id(EVENT, event_id), "object": "event", "created_at": int(created_at.timestamp()),
        "type": event_type, "data": {"id": shown_id, **(data or {})},
    }  # fmt: skip


def encode_event(event: dict[str, Any]) -> bytes:
    """The body of a delivery: the same bytes for the same event."""
    return json.dumps({name: event[name] for name in _ORDER}, separators=(",", ":")).encode()


def make_secret() -> str:
    """A fresh signing secret: whsec_ and 32 random bytes as base64."""
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def hint_secret(secret: str) -> str:
    """A secret to be told apart by, and for nothing else."""
    return f"{_SECRET_PREFIX}…{secret[-5:]}"


def sign_event(body: bytes, *, event_id: str, timestamp: int, secrets_: tuple[str, ...]) -> dict[str, str]:
    """The headers of Standard Webhooks, a signature for each secret. `timestamp` in seconds, that of this try."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(_SECRET_PREFIX)) for secret in secrets_]
    signatures = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def list_secrets(endpoint: Endpoint, now: datetime) -> tuple[str, ...]:
    """Those that sign now, the present one first."""
    old, until = endpoint.old_secret, endpoint.old_secret_until
    return (endpoint.secret, old) if old and until and now < until else (endpoint.secret,)
