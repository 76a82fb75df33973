"""The service's nouns as it answers them, typed and frozen. What a newer service adds is kept, untyped."""

from __future__ import annotations

from typing import Any, final

from pydantic import BaseModel, ConfigDict, Field

from batchinfer.domain import batches, documents, jobs, runs


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
    #: Of batchinfer, the engine and the libraries or the server under it; None where no model was asked.
    versions: dict[str, str] | None = None
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
    #: How a page ended: ok, fallback, failed or blank.
    outcome: str | None = None
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
    #: None of a batch of documents, whose run says where they are.
    input_file_id: str | None = None
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


class RunDocumentCounts(Noun):
    """How the documents of a run stand."""

    listed: int = 0
    skipped: int = 0
    closed: int = 0
    failed: int = 0
    with_errors: int = 0


class RunPageCounts(Noun):
    """How the pages of a run stand that are jobs; those that have not ended are in `total` alone."""

    total: int = 0
    ok: int = 0
    fallback: int = 0
    failed: int = 0
    blank: int = 0
    expired: int = 0
    cancelled: int = 0

    @property
    def ended(self) -> int:
        """Pages that will not change any more."""
        return self.ok + self.fallback + self.failed + self.blank + self.expired + self.cancelled


class RunCounts(Noun):
    """How far a run is."""

    documents: RunDocumentCounts = RunDocumentCounts()
    pages: RunPageCounts = RunPageCounts()


class Cause(Noun):
    """Why a run paused itself, failed or never began."""

    code: str
    message: str


@final
class Run(Noun):
    """A run over documents. `spec` and `resolved` are None in lists."""

    id: str
    name: str | None = None
    status: str
    model: str | None = None
    schedule_id: str | None = None
    schedule_version: int | None = None
    instant: int | None = None
    due_at: int | None = None
    created_at: int
    started_at: int | None = None
    listed_at: int | None = None
    expires_at: int | None = None
    finished_at: int | None = None
    counts: RunCounts = RunCounts()
    cause: Cause | None = None
    recipe: str | None = None
    batch_id: str | None = None
    files: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, str] = Field(default_factory=dict)
    spec: dict[str, Any] | None = None
    resolved: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing of it changes any more."""
        return self.status in runs.TERMINAL

    @property
    def succeeded(self) -> bool:
        """Whether all of its documents were read without an error."""
        return self.status == runs.RunState.COMPLETED


class RunDocument(Noun):
    """A document of a run; `bytes` is as it was listed."""

    id: str
    number: int
    uri: str | None = None
    filename: str | None = None
    media_type: str | None = None
    bytes: int | None = None
    stage: str
    outcome: str | None = None
    same_as: str | None = None
    pages: int | None = None
    page_counts: dict[str, int] = Field(default_factory=dict)
    error: Problem | None = None


class Schedule(Noun):
    """A schedule. `applied` is there in the answer to that: created, changed or unchanged."""

    id: str
    name: str
    status: str
    version: int
    created_at: int
    updated_at: int
    next_at: int | None = None
    #: The timing in words.
    fires: str | None = None
    error: Problem | None = None
    declared: dict[str, Any] = Field(default_factory=dict)
    applied: str | None = None


class Instant(Noun):
    """A moment that a schedule names; `local` is as its zone's clocks show it."""

    at: int
    local: str


class TemplateVersion(Noun):
    """A text of a prompt template."""

    version: int
    prompt: str
    system: str | None = None
    response_format: dict[str, Any] | None = None
    note: str | None = None
    created_at: int


class Template(Noun):
    """A prompt template; `versions`, newest first, are empty in lists."""

    id: str
    name: str
    version: int
    created_at: int
    updated_at: int
    versions: tuple[TemplateVersion, ...] = ()
    applied: str | None = None


class Model(Noun):
    """A model. `status` is ready, loading, failed or stopped."""

    id: str
    created: int
    revision: str = ""
    status: str = ""


class MemoryPlan(Noun):
    """What a replica takes on its device, in MiB by part; `loaded_mib` of `total_mib` it holds once it is ready."""

    weights_mib: int = 0
    activations_mib: int = 0
    kv_mib: int = 0
    workspace_mib: int = 0
    total_mib: int = 0
    loaded_mib: int = 0
    #: By what an earlier load took, not by arithmetic alone.
    measured: bool = False
    device_kind: str = ""
    dtype: str = ""
    quantisation: str = ""
    slots: int = 0
    context_tokens: int = 0


class Holding(Noun):
    """What a device keeps for a replica, in MiB."""

    worker: str
    model: str
    mib: int
    pinned: bool = False


class Advice(Noun):
    """Something that would make a launch fit, and what it then needs of what is then free."""

    action: str
    text: str
    needs_mib: int
    free_mib: int


class DeviceFit(Noun):
    """A device beside a launch; `fits` None where nobody knows what the device has."""

    host: str
    device: str
    kind: str
    title: str = ""
    total_mib: int | None = None
    reserved_mib: int = 0
    free_mib: int | None = None
    held: tuple[Holding, ...] = ()
    plan: MemoryPlan
    fits: bool | None = None
    missing_mib: int = 0
    advice: tuple[Advice, ...] = ()
    text: str = ""


class LaunchPlan(Noun):
    """What a launch would take, beside each device that it may go to."""

    model: str
    revision: str = ""
    plan: MemoryPlan
    fits: bool | None = None
    text: str = ""
    devices: tuple[DeviceFit, ...] = ()


class ModelFile(Noun):
    """A file of a model's revision. `sha256` is None until it was read."""

    name: str
    bytes: int
    sha256: str | None = None


class FetchProgress(Noun):
    """How far a fetch is. `left_s` is None while nothing comes."""

    bytes: int
    total_bytes: int
    bytes_per_s: int = 0
    left_s: int | None = None
    file: str | None = None


class Revision(Noun):
    """The files of a model under one hash, which is `id`. `status` is registered, fetching, fetched, verified or
    failed; `error` says what a fetch waits for, or why it failed."""

    id: str
    model: str
    status: str
    source: dict[str, Any] = Field(default_factory=dict)
    bytes: int = 0
    files: tuple[ModelFile, ...] = ()
    facts: dict[str, Any] = Field(default_factory=dict)
    progress: FetchProgress | None = None
    error: Problem | None = None
    created_at: int | None = None
    fetched_at: int | None = None
    checked_at: int | None = None
    verified_at: int | None = None
    pruned_at: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it is under way."""
        return self.status != "fetching" and self.progress is None


class PrunedRevision(Noun):
    """A revision with files on the disk. `kept` says why they stay; None where they go."""

    model: str
    revision: str
    bytes: int
    kept: str | None = None


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
