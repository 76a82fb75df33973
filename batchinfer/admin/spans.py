"""What lists read from the address alike: a span of time in the page's zone, and the place where a list goes on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flask import request, url_for
from flask_babel import gettext as _

from batchinfer.admin.language import find_zone
from batchinfer.domain import ids
from batchinfer.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from uuid import UUID


@dataclass(frozen=True)
class Span:
    """From when on, and until when (excluded), both aware; and the two as they stand in the address."""

    since: datetime | None
    until: datetime | None
    said: dict[str, str]


def read_span() -> Span:
    """`from` and `to` of the address: days, both of them in it, or minutes. Raises BadRequest."""
    said = {name: request.args.get(name, "").strip() for name in ("from", "to")}
    since, until = _read_time(said["from"], "from"), _read_time(said["to"], "to")
    if until is not None:
        until += timedelta(days=1) if len(said["to"]) == len("2026-11-22") else timedelta(minutes=1)
    return Span(since, until, {name: text for name, text in said.items() if text})


def _read_time(text: str, name: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=find_zone()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequest(
            _("%(name)s must be a day such as 2026-11-22, or one with a time, 2026-11-22T08:30.", name=name), param=name
        ) from None


def read_after(prefix: str, name: str = "after") -> UUID | None:
    """An id in the address. Raises BadRequest with the parameter."""
    text = request.args.get(name, "").strip()
    if not text:
        return None
    try:
        return ids.parse_id(prefix, text)
    except NotFound as error:
        raise BadRequest(f"{name}: {error.message}", param=name) from None


def make_address(endpoint: str, given: dict[str, Any], **changes: Any) -> str:
    """The address of a list with its filters and changes to them; what is empty is left out."""
    return url_for(endpoint, **{name: value for name, value in (given | changes).items() if value})
