"""The JSON of runs over documents. What a declaration may hold is told in docs/api.md; its readers are in `domain`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from batchinfer.api.schemas import ErrorDetail, MaybeTime, Time
from batchinfer.domain.batch_items import MAX_CODES
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.pipelines import Mode
from batchinfer.domain.runs import RunState
from batchinfer.domain.sinks import SinkType


class RunDocumentCounts(BaseModel):
    """How the documents stand. Skipped ones are unchanged; failed ones and those with errors are closed ones."""

    listed: int
    skipped: int
    closed: int
    failed: int
    with_errors: int


class RunPageCounts(BaseModel):
    """How the pages stand that are jobs; those that have not ended are in `total` alone."""

    total: int
    ok: int
    fallback: int
    failed: int
    blank: int
    expired: int
    cancelled: int


class RunCountsBody(BaseModel):
    """How far a run is."""

    documents: RunDocumentCounts
    pages: RunPageCounts


class RunBytes(BaseModel):
    """Of the documents listed, and of the pages rendered."""

    listed: int
    pages: int


class RunCause(BaseModel):
    """Why a run paused itself, was skipped or missed, or failed."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str


class RunBody(BaseModel):
    """A run. `batch_id` is null until it begins; `spec` and `resolved` are null in lists."""

    id: str
    object: Literal["run"] = "run"
    name: str | None
    status: RunState
    model: str | None
    job_class: JobClass | None = Field(serialization_alias="class")
    schedule_id: str | None
    schedule_version: int | None
    instant: MaybeTime
    due_at: MaybeTime
    created_at: Time
    started_at: MaybeTime
    listed_at: MaybeTime
    paused_at: MaybeTime
    expires_at: MaybeTime
    finished_at: MaybeTime
    counts: RunCountsBody
    bytes: RunBytes
    shards: int = Field(description="Shards of its sinks that were begun.")
    cause: RunCause | None
    recipe: str | None = Field(description="A hash of all that shapes its answers; the same one may share them.")
    batch_id: str | None
    files: dict[str, str] = Field(description="What was written beside the shards, by name.")
    metadata: dict[str, str]
    spec: dict[str, Any] | None = Field(description="As it was declared.")
    resolved: dict[str, Any] | None = Field(description="The texts and the model's revision that it began with.")


class RunList(BaseModel):
    """A page of runs."""

    object: Literal["list"] = "list"
    data: list[RunBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class RunPreview(BaseModel):
    """What a run would do, if it were declared now."""

    object: Literal["run.preview"] = "run.preview"
    documents: int
    bytes: int
    unchanged: int = Field(description="Read before by the same recipe: left out.")
    refused: int = Field(description="Larger than `max_bytes`, or none that is read.")
    redone: int = Field(description="Read before, and again now: something that shapes the answers has changed.")
    complete: bool = Field(description="false: the source has more than was looked at.")
    reason: str = Field(description="The same for people.")


class RunDocumentPages(BaseModel):
    """The page jobs of a document, and how those stand that have ended."""

    total: int
    ended: int
    failed: int
    fallback: int
    blank: int


class RunDocumentBody(BaseModel):
    """A document of a run. `bytes` is as it was listed; `pages` is null until it was opened."""

    id: str
    object: Literal["run.document"] = "run.document"
    number: int
    uri: str | None
    filename: str | None
    media_type: str | None
    bytes: int | None
    stage: str
    outcome: str | None
    same_as: str | None = Field(description="The earlier document whose answers are this one's.")
    pages: int | None
    page_counts: RunDocumentPages
    error: ErrorDetail | None
    closed_at: MaybeTime


class RunDocumentList(BaseModel):
    """A page of documents, in the order in which they were listed."""

    object: Literal["list"] = "list"
    data: list[RunDocumentBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


def make_body(name: str, *, required: bool = True) -> dict[str, Any]:
    """A request body of JSON whose schema is one of those below."""
    return {
        "required": required,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
    }


_SINK = {
    "type": "object",
    "properties": {"type": {"enum": list(SinkType)}, "uri": {"type": ["string", "null"]}},
    "required": ["type"],
}
#: What a run and a schedule declare alike.
SPEC: dict[str, Any] = {
    "name": {"type": ["string", "null"], "maxLength": 64},
    "source": {"type": "object", "description": "Where the documents are: one of `uri`, `files` and `urls`."},
    "pipeline": {
        "type": "object",
        "description": "How they are read: `model`, `prompt` or `template`, and what else shapes the answers.",
        "properties": {"model": {"type": "string"}, "mode": {"enum": list(Mode)}},
        "required": ["model"],
    },
    "sinks": {"type": ["array", "null"], "items": _SINK, "description": "Where the results go."},
    "sample": {"type": ["object", "null"], "description": "How many pages are drawn for review."},
    "metadata": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
}
WINDOW = {"type": ["string", "null"], "description": "The time that it has, such as 5h; what is over then expires."}
CREATE = make_body("RunCreate")
REREAD = {**make_body("RunRetry"), "required": False}
SCHEMAS: dict[str, dict[str, Any]] = {
    "RunRetry": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "codes": {
                "type": ["array", "null"],
                "items": {"type": "string"},
                "minItems": 1,
                "maxItems": MAX_CODES,
                "description": "Only documents with pages that ended for one of these reasons; for any if left out.",
            }
        },
    },
    "RunCreate": {
        "type": "object",
        "additionalProperties": False,
        "properties": {**SPEC, "window": WINDOW},
        "required": ["source", "pipeline"],
    },
}
