"""The JSON of schedules."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from batchinfer.api.run_schemas import SPEC, WINDOW, make_body
from batchinfer.api.schemas import ErrorDetail, MaybeTime, Time
from batchinfer.domain.schedules import ScheduleState
from batchinfer.domain.timing import AtDeadline, Misfire, Overlap


class ScheduleBody(BaseModel):
    """A schedule. `declared` is what was declared, `timing` in words beside it."""

    id: str
    object: Literal["schedule"] = "schedule"
    name: str
    status: ScheduleState
    version: int = Field(description="Rises with each change of what is declared; a run keeps the one it was made of.")
    created_at: Time
    updated_at: Time
    next_at: MaybeTime
    fires: str | None = Field(description="The timing in words; null where it works no more.")
    error: ErrorDetail | None = Field(description="What kept its last run from beginning.")
    declared: dict[str, Any]


class AppliedSchedule(ScheduleBody):
    """A schedule, and what applying did: created, changed or unchanged."""

    applied: Literal["created", "changed", "unchanged"]


class ScheduleList(BaseModel):
    """A page of schedules."""

    object: Literal["list"] = "list"
    data: list[ScheduleBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ScheduleDeleted(BaseModel):
    """A schedule that is deleted."""

    id: str
    object: Literal["schedule.deleted"] = "schedule.deleted"
    deleted: Literal[True] = True


class Instant(BaseModel):
    """A moment that a schedule names: in seconds since 1970, and as its zone's clocks show it."""

    at: Time
    local: str


class InstantList(BaseModel):
    """The next instants of a schedule, soonest first."""

    object: Literal["list"] = "list"
    data: list[Instant]
    has_more: Literal[False] = False


_TIMING = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "cron": {"type": "string", "description": "Minute, hour, day of month, month, day of week: 30 2 * * 1-5."},
        "timezone": {"type": "string", "description": "Such as Europe/Berlin."},
        "jitter_seconds": {"type": "integer", "minimum": 0, "description": "The run begins up to so much later."},
        "window": WINDOW,
        "misfire": {"enum": list(Misfire), "description": "What is done about instants at which nobody ticked."},
        "overlap": {"enum": list(Overlap), "description": "What is done while the run before it works."},
        "at_deadline": {"enum": list(AtDeadline), "description": "What is done when the window closes."},
    },
    "required": ["cron", "timezone"],
}
_FIELDS = {**SPEC, "timing": _TIMING, "enabled": {"type": ["boolean", "null"]}}
_WHOLE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {**_FIELDS, "name": {"type": "string", "maxLength": 64}},
    "required": ["name", "timing", "source", "pipeline"],
}
CREATE, CHANGE = make_body("ScheduleCreate"), make_body("ScheduleChange")
SCHEMAS: dict[str, dict[str, Any]] = {
    "ScheduleCreate": _WHOLE,
    "ScheduleChange": {"type": "object", "additionalProperties": False, "properties": _FIELDS},
}
