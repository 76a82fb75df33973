"""The JSON of acts on many jobs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from batchinfer.api.schemas import ErrorDetail, MaybeTime, Time
from batchinfer.domain.act_requests import LAST_S, MOST_CHARS
from batchinfer.domain.bulk_acts import MOST_NAMED, BulkState, BulkVerb
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.domain.prompts import MAX_MODEL_CHARS


class BulkActBody(BaseModel):
    """An act on many jobs. `total` was counted when it was asked for; `skipped` no longer allowed it."""

    id: str
    object: Literal["bulk_act"] = "bulk_act"
    verb: BulkVerb
    status: BulkState
    actor: str
    search: dict[str, Any] | None = Field(description="What the jobs have in common; null where they were named.")
    named: int = Field(description="How many jobs were named one by one.")
    total: int
    done: int
    skipped: int
    failed: int
    reasons: dict[str, int] = Field(description="How many were skipped or failed, by code.")
    error: ErrorDetail | None = Field(description="What it waits for, or why it failed.")
    created_at: Time
    started_at: MaybeTime
    finished_at: MaybeTime


class BulkActList(BaseModel):
    """A page of acts."""

    object: Literal["list"] = "list"
    data: list[BulkActBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ReachBody(BaseModel):
    """What an act would touch now. Sent with the act, `up_to` leaves jobs out that come after this count."""

    object: Literal["reach"] = "reach"
    number: int
    others: int = Field(description="How many more match and are in a state that does not allow it.")
    up_to: str | None


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_TEXT = {"type": "string", "minLength": 1, "maxLength": MOST_CHARS}
_TIME = {"type": "number", "minimum": 0, "maximum": LAST_S, "description": "Seconds since 1970."}
_SEARCH: dict[str, dict[str, Any]] = {
    "status": {"type": "string", "enum": list(JobState)},
    "model": {**_TEXT, "maxLength": MAX_MODEL_CHARS},
    "class": {"type": "string", "enum": list(JobClass)},
    "document": {**_TEXT, "description": "Its page jobs: an id that begins with doc_."},
    "batch": {**_TEXT, "description": "Its jobs: an id that begins with batch_."},
    "created_from": _TIME,
    "created_before": _TIME,
    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    "custom_id": _TEXT,
    "text": {**_TEXT, "description": "In the prompt or in the answer, whatever the case of its letters."},
}
_ACT: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "verb": {"type": "string", "enum": list(BulkVerb)},
        "jobs": _or_null({"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MOST_NAMED}),
        "search": _or_null(
            {"type": "object", "additionalProperties": False,
             "properties": {name: _or_null(schema) for name, schema in _SEARCH.items()},
             "description": "All jobs that have all of this in common; {} is all jobs."}
        ),
        "up_to": _or_null({**_TEXT, "description": "No job that came after this one, as a count answered it."}),
    },
    "required": ["verb"],
}  # fmt: skip
SCHEMAS: dict[str, dict[str, Any]] = {"BulkAct": _ACT}
ACT: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/BulkAct"},
            "examples": {"what failed": {"value": {"verb": "retry", "search": {"status": "failed"}}}},
        }
    },
}
