"""The JSON of a batch's lines, of the causes of their failures, of its retry and of its dry run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from batchinfer.api.batch_schemas import BatchFaults
from batchinfer.api.schemas import ErrorDetail, MaybeTime, Time
from batchinfer.domain.batch_items import MAX_CODES, MAX_NAMED, ONLY
from batchinfer.domain.jobs import JobState


class BatchItem(BaseModel):
    """A line of a batch. Its answer is the result of the job."""

    id: str
    object: Literal["batch.item"] = "batch.item"
    line: int = Field(description="Its place in the file, from 1.")
    custom_id: str
    status: JobState
    job_id: str
    attempts: int
    created_at: Time
    finished_at: MaybeTime
    error: ErrorDetail | None


class BatchItemList(BaseModel):
    """A page of lines, in the order of the file."""

    object: Literal["list"] = "list"
    data: list[BatchItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CauseExample(BaseModel):
    """The first line of those that failed for this reason."""

    line: int | None
    custom_id: str | None
    message: str


class BatchCause(BaseModel):
    """Lines that have no answer for the same reason."""

    code: str
    kind: Literal["request", "model_output", "lost_worker", "expired", "cancelled", "server"] = Field(
        serialization_alias="class", description="Whose fault it was."
    )
    count: int
    retry_helps: bool = Field(description="Whether the same line may end otherwise.")
    example: CauseExample


class BatchCauseList(BaseModel):
    """Why lines have no answer, the most frequent reason first."""

    object: Literal["list"] = "list"
    data: list[BatchCause]


class EstimateBody(BaseModel):
    """What the lines for a model ask for, and what they may take."""

    model: str
    requests: int
    files: int = Field(description="Pictures, and documents of any number of pages.")
    max_output_tokens: int = Field(description="The sum of what the lines allow.")
    basis: Literal["measured", "unknown"] = Field(
        description="measured: the means of your own jobs of this model in the last day. unknown: there were too few."
    )
    basis_jobs: int
    basis_minutes: int = Field(description="Minutes in which those jobs ended.")
    input_tokens: int | None
    output_tokens: int | None
    seconds: float | None = Field(description="Until the last line has ended, behind what waits already.")


class BatchValidation(BaseModel):
    """What a batch of these lines would come to. Nothing was made."""

    object: Literal["batch.validation"] = "batch.validation"
    valid: bool
    endpoint: str
    requests: int
    faults: int = Field(description="All of them; `errors` has the first 100.")
    errors: BatchFaults | None
    estimates: list[EstimateBody]


_RETRY = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "only": {
            "type": ["array", "null"],
            "items": {"enum": list(ONLY)},
            "minItems": 1,
            "description": "How the lines to try again ended; all of these unless set.",
        },
        "custom_ids": {
            "type": ["array", "null"],
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": MAX_NAMED,
            "description": "Of those only these.",
        },
        "codes": {
            "type": ["array", "null"],
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": MAX_CODES,
            "description": "Of those only what ended for these reasons, as `errors` names them.",
        },
        "merge": {"type": ["boolean", "null"], "description": "The files hold all lines of both; true unless set."},
        "completion_window": {"type": ["string", "null"], "description": "That of the batch unless set."},
        "metadata": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
    },
}
RETRY: dict[str, Any] = {
    "required": False,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/BatchRetry"}}},
}
SCHEMAS: dict[str, dict[str, Any]] = {"BatchRetry": _RETRY}
