"""The JSON of samples, golden prompts and reports of runs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from batchinfer.api.schemas import MaybeTime, Time
from batchinfer.domain.review import MAX_SAMPLE, Verdict
from batchinfer.domain.runs import PageOutcome


class AccuracyBody(BaseModel):
    """How right a run was, as far as its sample is judged. `low` and `high` are Wilson's interval of 95 %."""

    right: int
    judged: int
    sampled: int
    population: int = Field(description="Pages that the sample was drawn of.")
    share: float | None
    low: float | None
    high: float | None
    confidence: float = 0.95
    method: str = "wilson"
    drawn_by: str


class SamplePage(BaseModel):
    """A page of a sample. `answer` is null once the job was deleted."""

    id: str = Field(description="Of its job.")
    object: Literal["run.sample_page"] = "run.sample_page"
    number: int = Field(description="From 1, in the order of the drawing.")
    document_id: str | None
    name: str | None
    page: int | None
    outcome: PageOutcome
    answer: str | None
    picture: str | None = Field(description="Where the picture of the page is; null where none is kept.")
    verdict: Verdict | None
    note: str | None
    judged_by: str | None
    judged_at: MaybeTime
    golden: bool


class SampleList(BaseModel):
    """A page of a sample, and what its verdicts say so far."""

    object: Literal["list"] = "list"
    data: list[SamplePage]
    first_id: str | None
    last_id: str | None
    has_more: bool
    accuracy: AccuracyBody | None


class SealBody(BaseModel):
    """A run whose results are written once more."""

    id: str
    object: Literal["run.seal"] = "run.seal"
    status: str
    cause: dict[str, Any] | None


class GoldenBody(BaseModel):
    """A page whose right answer is known."""

    id: str
    object: Literal["golden"] = "golden"
    job_id: str
    run_id: str | None
    model: str
    answer: str
    sha256: str = Field(description="Of the picture.")
    created_at: Time
    created_by: str


class GoldenList(BaseModel):
    """A page of golden prompts."""

    object: Literal["list"] = "list"
    data: list[GoldenBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class GoldenDeleted(BaseModel):
    """A golden prompt that is no longer there."""

    id: str
    object: Literal["golden"] = "golden"
    deleted: bool


def _body(properties: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {"required": required, "content": {"application/json": {"schema": schema}}}


_TEXT = [{"type": "string"}, {"type": "null"}]
DRAW = _body({"size": {"type": "integer", "minimum": 0, "maximum": MAX_SAMPLE, "description": "200 if left out."}})
JUDGE = _body(
    {
        "verdict": {"enum": ["right", "wrong", None], "description": "null takes an earlier one back."},
        "note": {"anyOf": _TEXT},
    }
)
KEEP = _body({"answer": {"anyOf": _TEXT, "description": "The right one; the page's own if left out."}})
REPORT: dict[str, Any] = {
    "description": "The report, as JSON or as a page.",
    "content": {"application/json": {"schema": {"type": "object"}}, "text/html": {"schema": {"type": "string"}}},
}
PICTURE: dict[str, Any] = {
    "description": "The picture.",
    "content": {"image/jpeg": {"schema": {"type": "string"}}, "image/png": {"schema": {"type": "string"}}},
}
GOLDENS: dict[str, Any] = {
    "description": "A line of JSON a golden prompt, its picture as a data URL.",
    "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
}
