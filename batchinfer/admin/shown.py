"""How values look on a page: hostile text made harmless to the eye, times, durations, counts."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from batchinfer.admin.language import find_zone_name, in_zone
from batchinfer.admin.repeat import picture_name
from batchinfer.domain import ids
from batchinfer.store.pages import COUNT_CAP

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Blueprint

#: Characters that hide or turn text round: controls but tab and line ends, bidi controls, zero-width
#: spaces, the byte-order mark, tags. The joiners U+200C and U+200D stay: words and emoji need them.
_TRICKS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
#: Characters of one text that a page shows; the rest is a download away.
MOST_CHARS = 100_000


def register(blueprint: Blueprint) -> None:
    """Offer the filters to templates."""
    filters: tuple[Callable[..., Any], ...] = (
        visible,
        clip,
        flatten,
        duration,
        since,
        clock,
        moment,
        number,
        capped,
        tail,
    )
    for function in filters:
        blueprint.add_app_template_filter(function)
    blueprint.record_once(lambda setup: setup.app.jinja_env.globals.update(_names()))


def _names() -> dict[str, Any]:
    return {
        "show_job": lambda value: ids.show_id(ids.JOB, value),
        "show_batch": lambda value: ids.show_id(ids.BATCH, value),
        "show_document": lambda value: ids.show_id(ids.DOCUMENT, value),
        "picture_name": picture_name,
        "most_chars": MOST_CHARS,
    }


def visible(text: object) -> Markup:
    """Escaped text in which every character that would hide or reorder others is shown by its number."""
    plain = str(text)
    parts: list[Markup] = []
    start = 0
    for match in _TRICKS.finditer(plain):
        parts += [
            escape(plain[start : match.start()]),
            Markup('<span class="ctl">U+{:04X}</span>').format(ord(match[0])),
        ]
        start = match.end()
    parts.append(escape(plain[start:]))
    return Markup("").join(parts)


def clip(text: str | None, most: int = MOST_CHARS) -> str:
    """The first characters, with … where there were more."""
    text = text or ""
    return text if len(text) <= most else text[:most] + "…"


def flatten(text: str | None) -> str:
    """Text on one line."""
    return " ".join((text or "").split())


def duration(seconds: float | None) -> str:
    """A time span as people say it: 0.42 s, 12.3 s, 4 m 05 s, 2 h 10 m, 3 d 4 h."""
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def since(start: datetime | None, end: datetime | None = None) -> str:
    """The span between two times; to now where the second is missing."""
    return "–" if start is None else duration(((end or datetime.now(UTC)) - start).total_seconds())


def clock(at: datetime | None) -> str:
    """Time of day in the page's zone, with the day where it is not today's."""
    if at is None:
        return "–"
    at = in_zone(at)
    return f"{at:%H:%M:%S}" if at.date() == in_zone(datetime.now(UTC)).date() else f"{at:%Y-%m-%d %H:%M}"


def moment(at: datetime | None) -> str:
    """Day and time in the page's zone, to the second, with the zone's name."""
    return "–" if at is None else f"{in_zone(at):%Y-%m-%d %H:%M:%S} {find_zone_name()}"


def number(value: float | None, places: int = 0) -> str:
    """A count with thousands parted: 12,345."""
    return "–" if value is None else f"{value:,.{places}f}"


def capped(count: int | None) -> str:
    """A count that stops at the cap: 10,000+."""
    if count is None:
        return ""
    return f"{COUNT_CAP:,}+" if count > COUNT_CAP else f"{count:,}"


def tail(identifier: str) -> str:
    """The end of an id, by which people tell ids of the same minute apart."""
    return "…" + identifier[-8:]
