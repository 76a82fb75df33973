"""Dates in where a source is: `{date:%Y-%m-%d}` is the day for which a run is made, `{date-1d:...}` the day before."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from batchinfer.domain.fields import refuse, show

if TYPE_CHECKING:
    from datetime import tzinfo

_FIELD = re.compile(r"\{([^{}]*)\}")
_DATE = re.compile(r"date([+-]\d{1,3}d)?:((?:%[A-Za-z%]|[^%{}])+)")
#: Digits alone: the same in every language.
_DIRECTIVES = frozenset("YmdHMjyGVu%")


def has_date(text: str) -> bool:
    """Whether a text names a date."""
    return "{" in text


def check_dates(text: str, at: str) -> str:
    """The text, if its dates can be filled in. Raises BadRequest."""
    fill_dates(text, datetime(2026, 11, 21, 2, 30, tzinfo=UTC), at)
    return text


def fill_dates(text: str, moment: datetime, at: str = "source.uri") -> str:
    """The text with its dates filled in for an aware moment, in the moment's own zone. Raises BadRequest."""
    if not has_date(text) and "}" not in text:
        return text
    if re.search(r"[{}]", _FIELD.sub("", text)):
        refuse(at, "has a brace without its other half. Write {date:%Y-%m-%d}.", "invalid_source")
    return _FIELD.sub(lambda found: _fill(found[1], moment, at), text)


def _fill(field: str, moment: datetime, at: str) -> str:
    found = _DATE.fullmatch(field)
    if found is None:
        refuse(at, f"names {show(field)!r} in braces. Only a date can be filled in: {{date:%Y-%m-%d}}, or "
               "{date-1d:%Y-%m-%d} for the day before.", "invalid_source")  # fmt: skip
    unknown = [one[1] for one in re.findall(r"%.", found[2]) if one[1] not in _DIRECTIVES]
    if unknown:
        refuse(at, f"has %{unknown[0]} in its date. There are %Y %m %d %H %M %j %y %G %V %u.", "invalid_source")
    days = int(found[1][:-1]) if found[1] else 0
    return (moment + timedelta(days=days)).strftime(found[2])


def find_moment(moment: datetime, zone: tzinfo | None) -> datetime:
    """An aware moment as clocks in a zone show it; None: UTC."""
    return moment.astimezone(zone or UTC)
