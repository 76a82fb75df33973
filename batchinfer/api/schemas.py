"""The JSON of answers; OpenAPI is made from these.

Times are whole seconds since 1970. Ids carry a prefix per noun.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from batchinfer.domain.documents import DocumentState
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.domain.runs import PageOutcome

Time: TypeAlias = int
MaybeTime = Annotated[int | None, Field(description="Seconds since 1970.")]


class ErrorDetail(BaseModel):
    """What went wrong. `code` is for programs and stable; `param` is the dotted path of the field."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """Every answer of 400 and above: `error` as OpenAI writes it, the rest as RFC 9457 does."""

    error: ErrorDetail
    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str | None


class FieldConfidence(BaseModel):
    """How sure the model was of one field: the geometric mean of its tokens' probabilities, and the least of them."""

    mean: float
    min: float


class Result(BaseModel):
    """The answer of the model. `finish_reason` is stop or length."""

    text: str
    finish_reason: str
    model: str
    revision: str
    engine: str
    versions: dict[str, str] | None = Field(
        description="Of batchinfer, the engine and the libraries or the server under it; null where no model was asked."
    )
    confidence: dict[str, FieldConfidence] | None = Field(
        None, description="By the dotted path of each field, where `logprobs` were asked for and the answer is JSON."
    )


class JobBody(BaseModel):
    """A job. `result` and `usage` are there once it succeeded, `error` once it failed."""

    id: str
    object: Literal["job"] = "job"
    status: JobState
    model: str
    created_at: Time
    started_at: MaybeTime
    finished_at: MaybeTime
    #: Tries that count; workers lost under the job are in `crashes`.
    attempts: int
    crashes: int
    result: Result | None
    usage: dict[str, Any] | None
    error: ErrorDetail | None
    document_id: str | None
    page: int | None
    outcome: PageOutcome | None = Field(description="Of a page that has ended: how; else null.")
    #: The job that it repeats, and the newest that repeats it.
    retry_of: str | None
    retried_as: str | None
    trace_id: str | None = Field(description="Its trace (W3C Trace Context), by which logs and traces are found.")
    metadata: dict[str, str]
    #: Seconds, by stage, of the try that succeeded.
    timings: dict[str, float] | None
    cached: bool = Field(description="Whether its answer is that of an earlier job, so that no tokens were used.")


class AttemptBody(BaseModel):
    """An ended try. `outcome` is succeeded, failed, retry, lost, released, cancelled or expired."""

    object: Literal["attempt"] = "attempt"
    number: int
    outcome: str
    worker: str | None
    started_at: MaybeTime
    finished_at: Time
    error: ErrorDetail | None
    timings: dict[str, float] | None


class DeletedJob(BaseModel):
    """A job that is no longer there."""

    id: str
    object: Literal["job"] = "job"
    deleted: Literal[True] = True


class SpanBody(BaseModel):
    """A stretch of a job's time. `kind` is waiting, prepare or infer; the last four are there where a try ended."""

    kind: str
    started_at: float
    finished_at: float | None
    #: Seconds by stage.
    stages: dict[str, float]
    attempt: int | None
    outcome: str | None
    worker: str | None
    error: ErrorDetail | None


class TimelineBody(BaseModel):
    """Where the time of a job went. `stages` are seconds and add up to `total_s`; times are seconds since 1970."""

    object: Literal["timeline"] = "timeline"
    job_id: str
    trace_id: str | None
    total_s: float
    stages: dict[str, float]
    spans: list[SpanBody]


class DocumentBody(BaseModel):
    """A document. `pages` is null until the file was opened; `jobs` are the ids of its pages, in order."""

    id: str
    object: Literal["document"] = "document"
    status: DocumentState
    model: str
    filename: str | None
    media_type: str
    created_at: Time
    finished_at: MaybeTime
    pages: int | None
    page_counts: dict[JobState, int]
    jobs: list[str]
    error: ErrorDetail | None


class ModelBody(BaseModel):
    """A model as OpenAI lists it, with its revision and whether a worker has it ready."""

    id: str
    object: Literal["model"] = "model"
    created: Time
    owned_by: Literal["batchinfer"] = "batchinfer"
    revision: str
    status: str


class WorkerBody(BaseModel):
    """A worker process. `running` is how many rows it holds, `silent_s` how long it has said nothing."""

    id: str
    object: Literal["worker"] = "worker"
    name: str
    role: str
    host: str
    pid: int
    model: str | None
    device: str | None
    slots: int
    running: int
    alive: bool
    started_at: Time
    ended_at: MaybeTime
    end_reason: str | None
    silent_s: float
    info: dict[str, Any]


class _ListBody(BaseModel):
    object: Literal["list"] = "list"
    has_more: bool = False


class JobList(_ListBody):
    """Some jobs, newest first; ask again with `after=<last_id>` while `has_more`."""

    data: list[JobBody]
    first_id: str | None
    last_id: str | None


class DocumentList(_ListBody):
    """Some documents, newest first; `jobs` is left empty here."""

    data: list[DocumentBody]
    first_id: str | None
    last_id: str | None


class AttemptList(_ListBody):
    """All ended tries of a job, oldest first."""

    data: list[AttemptBody]


class ModelList(_ListBody):
    """All models."""

    data: list[ModelBody]


class WorkerList(_ListBody):
    """Workers alive, and those that ended in the last hour."""

    data: list[WorkerBody]


class WaitingBody(BaseModel):
    """What waits and runs of a kind of work, a model and a class. `oldest_s`: age of the oldest waiting."""

    kind: str
    model: str
    job_class: JobClass = Field(serialization_alias="class")
    waiting: int
    running: int
    oldest_s: float | None


class PauseBody(BaseModel):
    """Nothing of this tenant and model begins; null stands for all. `actor` is who paused it."""

    tenant: str | None
    model: str | None
    actor: str
    created_at: Time


class PauseList(_ListBody):
    """Every pause that touches you; for an operator every one."""

    data: list[PauseBody]


class QuotaBody(BaseModel):
    """Jobs of a tenant that wait or run and the most that may; `backlog` is that of all tenants together."""

    tenant: str
    jobs: int
    max_jobs: int
    #: Rows that the tenant gets in each of its turns.
    weight: int
    backlog: int
    max_backlog: int


class QueueBody(BaseModel):
    """The queue: what waits and runs, what is paused, and the limits."""

    object: Literal["queue"] = "queue"
    waiting: list[WaitingBody]
    pauses: list[PauseBody]
    quota: QuotaBody


class ReclassBody(BaseModel):
    """How many jobs were given another class."""

    object: Literal["reclass"] = "reclass"
    changed: int


class EventSubject(BaseModel):
    """What changed: a job or a batch."""

    id: str


class EventBody(BaseModel):
    """A change of state. `type` is the noun and the state that it came into, job.succeeded for example."""

    id: str
    object: Literal["event"] = "event"
    type: str
    created_at: Time
    data: EventSubject


class EventList(_ListBody):
    """Some events, oldest first; go on with `after=<next_after>`, also where there were none."""

    data: list[EventBody]
    first_id: str | None
    last_id: str | None
    next_after: str


class UsageNumbers(BaseModel):
    """What results used. `device_seconds`: prefill and decoding, shared among the jobs that were at it together."""

    jobs: int
    prompt_tokens: int
    completion_tokens: int
    #: Among the prompt tokens: those of pictures, and those that were not computed anew.
    image_tokens: int
    cached_tokens: int
    images: int
    device_seconds: float


class UsageRowBody(UsageNumbers):
    """What one group used; what was not asked for, or that there is none of, is null."""

    day: str | None
    model: str | None
    key: str | None
    schedule: str | None


class UsageBody(BaseModel):
    """Usage by whole days of UTC, from the day `from` to the day `to`."""

    object: Literal["usage"] = "usage"
    since: str = Field(serialization_alias="from")
    until: str = Field(serialization_alias="to")
    group_by: list[str]
    data: list[UsageRowBody]
    total: UsageNumbers


class MinuteBody(BaseModel):
    """What happened in the minute that began at `minute`, all models together."""

    minute: Time
    submitted: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    quarantined: int
    retried: int
    lost: int
    prompt_tokens: int
    completion_tokens: int
    images: int
    reused: int = Field(description="Of those that succeeded: answers of earlier jobs.")


class OverviewBody(BaseModel):
    """The numbers of this tenant; workers are the installation's. Minutes without anything are left out."""

    object: Literal["overview"] = "overview"
    preparing: int
    queued: int
    running: int
    rendering: int
    oldest_waiting_s: float | None
    #: Age of the oldest database snapshot, which keeps the queue's table from being cleaned.
    oldest_snapshot_s: float | None
    succeeded_last_hour: int
    failed_last_hour: int
    images_per_s: float
    tokens_per_s: float
    jobs_per_s: float
    waiting: list[WaitingBody]
    minutes: list[MinuteBody]
    workers: list[WorkerBody]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class MetricsTarget(BaseModel):
    """A page of metrics as Prometheus's http_sd reads it."""

    targets: list[str]
    labels: dict[str, str]


class Check(BaseModel):
    """One part. `reason` says what is wrong and what to do, where something is."""

    ok: bool
    reason: str | None = None


class Announcements(BaseModel):
    """What this web process announced to the workers since its start. `spared`: their queue was long enough. `failed`:
    Redis did not take them; the workers find the work by looking."""

    sent: int
    spared: int
    failed: int


class Readiness(BaseModel):
    """Whether work that is submitted now is done now. `degraded`: it is, but slower or not all of it."""

    status: Literal["ready", "degraded", "unready"]
    checks: dict[str, Check]
    announcements: Announcements
