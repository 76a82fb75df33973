"""A job is one prompt to answer. Its state machine is the table below; SQL guards each change by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class JobState(StrEnum):
    """Where a job is. `preparing`, `queued` and `running` live in its queue row, the others in its job row."""

    #: Its pictures wait for, or are in, a CPU worker that checks and normalises them.
    PREPARING = "preparing"
    #: Ready for a model worker, now or (a retry) from `available_at` on.
    QUEUED = "queued"
    #: A lease holds it.
    RUNNING = "running"
    #: Ended with a result; exactly one row in `results`.
    SUCCEEDED = "succeeded"
    #: Ended with an error that another try would not mend, or after the last try.
    FAILED = "failed"
    #: Ended by its owner.
    CANCELLED = "cancelled"
    #: Its deadline passed first.
    EXPIRED = "expired"
    #: Workers died of it too often; an operator may release it.
    QUARANTINED = "quarantined"


#: Verb -> (states it may leave, state it leads to).
TRANSITIONS: dict[str, tuple[frozenset[JobState], JobState]] = {
    "prepare": (frozenset({JobState.PREPARING}), JobState.QUEUED),
    "claim": (frozenset({JobState.QUEUED}), JobState.RUNNING),
    "complete": (frozenset({JobState.RUNNING}), JobState.SUCCEEDED),
    "reuse": (frozenset({JobState.PREPARING}), JobState.SUCCEEDED),
    "stand_in": (frozenset({JobState.PREPARING}), JobState.SUCCEEDED),
    "fail": (frozenset({JobState.PREPARING, JobState.RUNNING}), JobState.FAILED),
    "retry": (frozenset({JobState.RUNNING}), JobState.QUEUED),
    "climb": (frozenset({JobState.PREPARING, JobState.RUNNING}), JobState.PREPARING),
    "release": (frozenset({JobState.RUNNING, JobState.QUARANTINED}), JobState.QUEUED),
    "cancel": (frozenset({JobState.PREPARING, JobState.QUEUED, JobState.RUNNING}), JobState.CANCELLED),
    "expire": (frozenset({JobState.PREPARING, JobState.QUEUED, JobState.RUNNING}), JobState.EXPIRED),
    "quarantine": (frozenset({JobState.PREPARING, JobState.QUEUED, JobState.RUNNING}), JobState.QUARANTINED),
}
LIVE = frozenset({JobState.PREPARING, JobState.QUEUED, JobState.RUNNING})
TERMINAL = frozenset(JobState) - LIVE


class JobClass(StrEnum):
    """How urgent a job is; lower `rank` is claimed first."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BATCH = "batch"

    @property
    def rank(self) -> int:
        """0 for interactive, 1 for normal, 2 for batch."""
        return list(JobClass).index(self)


@dataclass(frozen=True)
class Usage:
    """What a job used, as it is billed: tokens in (with those of pictures), tokens out, pictures."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    images: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As OpenAI reports it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"image_tokens": self.image_tokens, "cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True)
class JobFilter:
    """Which jobs of a list; None leaves a condition out. `metadata` are pairs that a job must all have."""

    state: JobState | None = None
    model: str | None = None
    job_class: JobClass | None = None
    document_id: UUID | None = None
    batch_id: UUID | None = None
    #: Made at or after, and before; aware.
    created_from: datetime | None = None
    created_before: datetime | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True)
class Attempt:
    """One ended try. `outcome` is succeeded, failed, retry, lost, released, cancelled or expired."""

    number: int
    outcome: str
    worker: str | None
    started_at: datetime | None
    finished_at: datetime
    error: dict[str, Any] | None
    timings: dict[str, float] | None
    #: What was tried: infer, or (in a CPU worker, not paid for) prepare, render or deliver; of the last, `timings` has
    #: the receiver's status beside the seconds.
    kind: str = "infer"


@dataclass(frozen=True)
class Job:
    """A job as a reader sees it, rows put together. Times are aware UTC."""

    id: UUID
    tenant_id: UUID
    state: JobState
    model: str
    job_class: JobClass
    prompt: dict[str, Any]
    #: Set once, at submission.
    created_at: datetime
    #: When the present or last try was claimed; None before the first.
    started_at: datetime | None
    #: Set once, with a terminal state.
    finished_at: datetime | None
    #: Tries that the user pays for; workers lost under it are in `crashes`.
    attempts: int
    crashes: int
    expires_at: datetime | None
    document_id: UUID | None = None
    #: From 1.
    page: int | None = None
    #: `{"text", "finish_reason", "model", "revision", "engine", "versions"}` of a success.
    result: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] | None = None
    #: Whether its answer is that of an earlier job, so that no model was asked.
    cached: bool = False
    #: The job that it repeats, and the newest job that repeats it.
    origin_id: UUID | None = None
    retry_id: UUID | None = None
    #: 32 hexadecimal digits; None for one that was stored before traces were.
    trace_id: str | None = None
