"""A schedule declares a run for each of its instants. What it is, how its state changes, how a declaration is read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batchinfer.domain.fields import check_plain, read_flag, read_object, read_text, refuse, refuse_unknown, require
from batchinfer.domain.runs import MAX_NAME_CHARS, SPEC_FIELDS
from batchinfer.domain.timing import Timing, parse_timing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID


class ScheduleState(StrEnum):
    """Whether a schedule fires."""

    ENABLED = "enabled"
    #: By an operator: instants pass, and nobody makes up for them.
    PAUSED = "paused"
    #: Its timing does not work any more: a time zone that is gone, a day that never comes again.
    ERROR = "error"


#: verb -> (states in which it works, state after it). `break` is the tick's.
TRANSITIONS: dict[str, tuple[frozenset[ScheduleState], ScheduleState]] = {
    "pause": (frozenset({ScheduleState.ENABLED, ScheduleState.ERROR}), ScheduleState.PAUSED),
    "resume": (frozenset({ScheduleState.PAUSED, ScheduleState.ERROR}), ScheduleState.ENABLED),
    "break": (frozenset({ScheduleState.ENABLED}), ScheduleState.ERROR),
}
#: What a schedule says beside what its runs are to do.
OWN_FIELDS = ("timing", "enabled")
_FIELDS = (*(name for name in SPEC_FIELDS if name != "window"), *OWN_FIELDS)


@dataclass(frozen=True)
class ScheduleRequest:
    """A declaration, its timing read. `declared` is as it came, without `enabled`."""

    name: str
    timing: Timing
    declared: dict[str, Any]
    #: None where it does not say.
    enabled: bool | None


@dataclass(frozen=True)
class Schedule:
    """A schedule as a reader sees it. Times are aware UTC."""

    id: UUID
    tenant_id: UUID
    name: str
    #: Rises with each change of what is declared.
    version: int
    state: ScheduleState
    declared: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    #: Instants up to here are dealt with.
    last_instant: datetime | None
    #: None while it is not enabled.
    next_at: datetime | None
    #: What kept its last run from beginning; None once one has begun.
    error: dict[str, Any] | None = None
    key_id: UUID | None = None

    @property
    def timing(self) -> Timing:
        """When it fires. Raises BadRequest where what was once declared works no more."""
        return parse_timing(self.declared["timing"])


def parse_schedule(body: object) -> ScheduleRequest:
    """A schedule from decoded JSON; what its runs are to do is read by `parse_spec`. Raises BadRequest."""
    given = read_object(body, "body")
    check_plain(given)
    if "window" in given:
        refuse("window", "of a schedule belongs to its timing. Say `timing.window`.", "unknown_parameter")
    refuse_unknown(given, _FIELDS)
    enabled = given.get("enabled")
    return ScheduleRequest(
        name=read_text(require(given, "name", "Call it something."), "name", max_chars=MAX_NAME_CHARS),
        timing=parse_timing(require(given, "timing", 'Say {"cron": "30 2 * * 1-5", "timezone": "Europe/Berlin"}.')),
        declared={name: value for name, value in given.items() if name != "enabled" and value is not None},
        enabled=None if enabled is None else read_flag(enabled, "enabled"),
    )


def merge_change(declared: Mapping[str, Any], body: object) -> dict[str, Any]:
    """What is declared once a change is in it: each field that is given replaces the whole of its former value, and
    null takes it away. Raises BadRequest."""
    given = read_object(body, "body")
    return {**declared, **given}


def make_run_spec(declared: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of the schedule is to do, as a run declares it.

    Where pages go on after the window, the run itself has none: its class falls when the window closes.
    """
    spec = {name: value for name, value in declared.items() if name not in OWN_FIELDS}
    timing = declared["timing"]
    if timing.get("window") is not None and timing.get("at_deadline", "expire") == "expire":
        spec["window"] = timing["window"]
    return spec
