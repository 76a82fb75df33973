"""The service's nouns as it answers them, typed and frozen. What a newer service adds is kept, untyped."""

from __future__ import annotations

from typing import Any, final

from pydantic import BaseModel, ConfigDict, Field

from batchinfer.domain import batches, documents, jobs


class Noun(BaseModel):
    """An answer. States are texts, so that those of a newer service can be read."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def as_dict(self) -> dict[str, Any]:
        """The JSON as the service wrote it."""
        return self.model_dump(mode="json", by_alias=True)


class Problem(Noun):
    """What went wrong with a job, a document or a request; docs/errors.md lists the codes."""

    message: str
    type: str = "server_error"
    param: str | None = None
    code: str = "failed"


class Result(Noun):
    """The answer of the model. `finish_reason` is stop or length."""

    text: str
    finish_reason: str
    model: str
    revision: str
    engine: str
    #: By the dotted path of each field, {"mean", "min"} of its tokens' probabilities: with `logprobs`, of JSON.
    confidence: dict[str, dict[str, float]] | None = None


@final
class Job(Noun):
    """A job. `result` is there once it succeeded, `error` once it ended otherwise. Times are seconds since 1970."""

    id: str
    status: str
    model: str
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    attempts: int = 0
    crashes: int = 0
    result: Result | None = None
    usage: dict[str, Any] | None = None
    error: Problem | None = None
    document_id: str | None = None
    #: From 1.
    page: int | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    #: Seconds by stage.
    timings: dict[str, float] | None = None
    #: Answered by what was answered before.
    cached: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing of it changes any more."""
        return self.status in jobs.TERMINAL

    @property
    def succeeded(self) -> bool:
        """Whether it has a result."""
        return self.status == jobs.JobState.SUCCEEDED


class Attempt(Noun):
    """An ended try of a job."""

    number: int
    outcome: str
    worker: str | None = None
    started_at: int | None = None
    finished_at: int
    error: Problem | None = None
    timings: dict[str, float] | None = None


@final
class Document(Noun):
    """A PDF or TIFF. `jobs` are the ids of its pages, in order; empty in lists."""

    id: str
    status: str
    model: str
    filename: str | None = None
    media_type: str
    created_at: int
    finished_at: int | None = None
    pages: int | None = None
    page_counts: dict[str, int] = Field(default_factory=dict)
    jobs: tuple[str, ...] = ()
    error: Problem | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing of it changes any more."""
        return self.status in documents.TERMINAL

    @property
    def succeeded(self) -> bool:
        """Whether every page has a result."""
        return self.status == documents.DocumentState.COMPLETED


class File(Noun):
    """A file that was uploaded, or that a batch wrote."""

    id: str
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str


class Counts(Noun):
    """How the lines of a batch stand."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Extras(Noun):
    """What of a batch OpenAI's object has no place for."""

    priority: str = "low"
    expired: int = 0
    cancelled: int = 0


class Fault(Noun):
    """What is wrong with a line of an input file, or (`line` None) with the file."""

    code: str
    line: int | None = None
    message: str
    param: str | None = None


class Faults(Noun):
    """The first 100 faults of a file."""

    data: tuple[Fault, ...] = ()


@final
class Batch(Noun):
    """A batch, as OpenAI's object with `batchinfer` beside it."""

    id: str
    status: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int | None = None
    model: str | None = None
    errors: Faults | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: Counts = Counts()
    usage: dict[str, Any] | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    batchinfer: Extras = Extras()

    @property
    def ended(self) -> bool:
        """Whether nothing of it changes any more."""
        return self.status in batches.TERMINAL

    @property
    def succeeded(self) -> bool:
        """Whether every line was answered."""
        return self.status == batches.BatchState.COMPLETED and self.request_counts.failed == 0

    @property
    def done(self) -> int:
        """Lines that have ended."""
        counts = self.request_counts
        return counts.completed + counts.failed + self.batchinfer.expired + self.batchinfer.cancelled


class Model(Noun):
    """A model. `status` is ready, loading, failed or stopped."""

    id: str
    created: int
    revision: str = ""
    status: str = ""


class UsageNumbers(Noun):
    """What results used. Seconds are those of prefill and decoding."""

    jobs: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    images: int = 0
    device_seconds: float = 0.0


class UsageRow(UsageNumbers):
    """What one group used; what was not asked for is None."""

    day: str | None = None
    model: str | None = None
    key: str | None = None
    schedule: str | None = None


class UsageReport(Noun):
    """Usage from the day `since` to the day `until`, both whole."""

    since: str = Field(alias="from")
    until: str = Field(alias="to")
    group_by: tuple[str, ...] = ()
    data: tuple[UsageRow, ...] = ()
    total: UsageNumbers = UsageNumbers()
