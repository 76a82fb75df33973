"""What a worker holds and what it gives back: the values that travel between the queue and the workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import JOB, show_id
from batchinfer.domain.retries import RetryClass
from batchinfer.observe.traces import read_trace_id

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.jobs import JobClass, JobState, Usage

#: Kinds of work in the queue. Model workers claim `infer`, CPU workers the others.
INFER, PREPARE, RENDER, DELIVER = "infer", "prepare", "render", "deliver"
READ, EXPORT = "read", "export"
#: Of a run: its source is listed, one of its documents is closed, a shard of its results is written.
LIST, CLOSE, SEAL = "list", "close", "seal"
#: The files of a model's revision are brought here.
FETCH = "fetch"
#: An act on many jobs is carried out.
ACT = "act"
#: Kinds that belong to no model, and are in no counter of one.
UNCOUNTED = (DELIVER, READ, EXPORT, LIST, CLOSE, SEAL, FETCH, ACT)


@dataclass(frozen=True)
class Claim:
    """A queue row that a lease holds. (`id`, `attempt`, `lease_id`) is the fence of everything done with it."""

    id: UUID
    kind: str
    #: The job for kinds infer and prepare, the document for render and close, what is in the outbox for deliver, the
    #: batch for read, export and list, the shard for seal, the model's revision for fetch, the bulk act for act.
    subject_id: UUID
    tenant_id: UUID
    model: str
    job_class: JobClass
    attempt: int
    #: Earlier claims of this kind that ended with a lost worker.
    crashes: int
    released: int
    schema_version: int
    expires_at: datetime | None
    created_at: datetime
    lease_id: UUID
    #: When it was claimed, by the database's clock: `expires_at` - `leased_at` is the time that is left.
    leased_at: datetime | None = None
    #: Lost workers of which this row may have been the cause; from the first on it runs apart.
    suspected: int = 0
    #: That of the job, document, batch or delivery, once it was loaded; as `observe.traces` encodes it.
    trace: str | None = field(default=None, compare=False)

    @property
    def tags(self) -> dict[str, Any]:
        """What every line of a log about it names."""
        job_id = {"job_id": show_id(JOB, self.subject_id)} if self.kind in (INFER, PREPARE) else {}
        subject = job_id or {"subject_id": self.subject_id.hex}
        return {"kind": self.kind, **subject, "attempt": self.attempt, "trace_id": read_trace_id(self.trace)}

    def age_s(self) -> float:
        """Seconds since it was claimed: this host's clock against the database's, for people to read."""
        return max(0.0, (datetime.now(UTC) - self.leased_at).total_seconds()) if self.leased_at else 0.0


@dataclass(frozen=True)
class Outcome:
    """The result of a job, as its worker has it."""

    id: UUID
    attempt: int
    text: str
    #: stop or length.
    finish_reason: str
    usage: Usage
    model: str
    revision: str
    engine: str
    #: Seconds, by stage.
    timings: dict[str, float] = field(default_factory=dict)
    logprobs: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Ending:
    """A try that ended with an error. `error` is `BatchinferError.as_dict()`; `retry` decides on another try."""

    id: UUID
    attempt: int
    error: dict[str, Any]
    retry: RetryClass = RetryClass.PERMANENT
    timings: dict[str, float] | None = None


@dataclass(frozen=True)
class Ended:
    """A queue row that is gone: its work ended with `state`. `held` says that a worker was at it."""

    id: UUID
    kind: str
    subject_id: UUID
    tenant_id: UUID
    model: str
    state: JobState
    held: bool
    #: Where it was a job of a batch.
    batch_id: UUID | None = None
    #: Of a job: whose usage it is.
    key_id: UUID | None = None
    schedule_id: UUID | None = None
    #: Where it was a page of a document; of a run: it counts its pages.
    document_id: UUID | None = None
    run_id: UUID | None = None
    #: Of a job that a worker had: from its submission to its claim, and from there to its end.
    waited_s: float | None = None
    ran_s: float | None = None
    #: Whether it was a job that anybody may want to hear of.
    heard: bool = False

    @property
    def is_page(self) -> bool:
        """Whether it was a page of a document."""
        return self.document_id is not None


@dataclass(frozen=True)
class Requeued:
    """A queue row that waits again, to be announced."""

    id: UUID
    kind: str
    tenant_id: UUID
    model: str
    job_class: JobClass
