"""The JSON of batches, as OpenAI's SDK types it. What is ours alone is in `batchinfer`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from batchinfer.api.lines import LINES
from batchinfer.api.schemas import MaybeTime, Time
from batchinfer.domain.batches import ENDPOINTS, PRIORITIES, BatchState
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.reuse import Reuse


class BatchFault(BaseModel):
    """What is wrong with a line of the input file, or (`line` null) with the file."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchFaults(BaseModel):
    """The first 100 faults of a file."""

    object: Literal["list"] = "list"
    data: list[BatchFault]


class RequestCounts(BaseModel):
    """How the lines stand. Expired and cancelled ones are in neither `completed` nor `failed`."""

    total: int
    completed: int
    failed: int


class BatchInputTokens(BaseModel):
    """Of the tokens that came in: those read from a cache."""

    cached_tokens: int = 0


class BatchOutputTokens(BaseModel):
    """Of the tokens that went out: none are for reasoning alone."""

    reasoning_tokens: int = 0


class BatchUsage(BaseModel):
    """Tokens of all lines that are completed."""

    input_tokens: int
    input_tokens_details: BatchInputTokens
    output_tokens: int
    output_tokens_details: BatchOutputTokens
    total_tokens: int


class BatchExtras(BaseModel):
    """What OpenAI's object has no place for."""

    priority: Literal["low", "normal", "high"] = Field(description="As it was created.")
    job_class: JobClass = Field(serialization_alias="class", description="The class of its jobs.")
    expired: int
    cancelled: int
    parent_id: str | None = Field(description="The batch whose lines it tries again.")
    cache_hits: int = Field(description="Lines that took over an answer that was kept.")
    merged: int = Field(description="Lines of its files that are those of batches before it.")
    paused_at: MaybeTime


class BatchBody(BaseModel):
    """A batch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchFaults | None
    input_file_id: str | None = Field(description="null for a batch of documents, whose run says where they are.")
    completion_window: str
    status: BatchState
    output_file_id: str | None
    error_file_id: str | None
    created_at: Time
    in_progress_at: MaybeTime
    expires_at: MaybeTime
    finalizing_at: MaybeTime
    completed_at: MaybeTime
    failed_at: MaybeTime
    expired_at: MaybeTime
    cancelling_at: MaybeTime
    cancelled_at: MaybeTime
    request_counts: RequestCounts
    usage: BatchUsage | None
    metadata: dict[str, str]
    batchinfer: BatchExtras


class BatchList(BaseModel):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[BatchBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


_LINES = {"type": "string", "description": "A request a line, each an object of JSON."}
_CREATE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "input_file_id": {"type": "string", "description": "A file of purpose batch."},
        "endpoint": {"enum": list(ENDPOINTS), "description": "What every line asks for."},
        "completion_window": {"type": "string", "description": "24h, or any time such as 90m or 7d up to 30 days."},
        "metadata": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        "output_expires_after": {"type": ["object", "null"], "description": "As `expires_after` of a file."},
        "batchinfer": {
            "type": ["object", "null"],
            "properties": {"priority": {"enum": list(PRIORITIES)}, "cache": {"enum": [*Reuse, None]}},
            "additionalProperties": False,
        },
    },
    "required": ["input_file_id", "endpoint", "completion_window"],
}
CREATE: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/BatchCreate"}},
        LINES[0]: {"schema": _LINES},
    },
}
RECLASS: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"class": {"enum": [str(job_class) for job_class in JobClass]}},
                "required": ["class"],
            }
        }
    },
}
_ANSWER = {
    "type": "object",
    "properties": {
        "status_code": {"type": "integer"},
        "request_id": {"type": "string"},
        "body": {"type": "object", "description": "A completion or response, or where it failed `error`."},
    },
    "required": ["status_code", "request_id", "body"],
}
_NEVER_RAN = {
    "type": "object",
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
    "required": ["code", "message"],
}
_INPUT_LINE = {
    "type": "object",
    "description": "A line of a batch's input file.",
    "properties": {
        "custom_id": {"type": "string", "description": "Yours; comes back with the answer."},
        "method": {"const": "POST"},
        "url": {"enum": list(ENDPOINTS), "description": "The batch's `endpoint`."},
        "body": {"type": "object", "description": "The request."},
    },
    "required": ["custom_id", "method", "url", "body"],
}
_OUTPUT_LINE = {
    "type": "object",
    "description": "A line of a batch's output or error file. `response` null: it never ran, and `error` says why.",
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "pattern": "^batch_req_"},
        "custom_id": {"type": "string"},
        "response": {"anyOf": [_ANSWER, {"type": "null"}]},
        "error": {"anyOf": [_NEVER_RAN, {"type": "null"}]},
    },
    "required": ["id", "custom_id", "response", "error"],
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "BatchCreate": _CREATE,
    "BatchInputLine": _INPUT_LINE,
    "BatchOutputLine": _OUTPUT_LINE,
}
