"""An act on many jobs: what is done, to which states, and where the act itself is.

    queued ──> running ──> completed
       │          ├──────> failed
       └──────────┴──────> cancelled

A CPU worker carries it out, some jobs at a time; what it did before it was cancelled stays done.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from batchinfer.domain.jobs import LIVE, TERMINAL, JobState

#: Jobs that may be named one by one.
MOST_NAMED = 1000


class BulkVerb(StrEnum):
    """What is done to each job, as the verb of one job has it."""

    RETRY = "retry"
    CANCEL = "cancel"
    DELETE = "delete"

    @property
    def states(self) -> frozenset[JobState]:
        """The states in which a job allows it."""
        return _ALLOWED[self]

    @property
    def scope(self) -> str:
        """The scope that it needs."""
        return "submit" if self is BulkVerb.RETRY else "cancel"


#: How a job ended that can be done again: without a result.
REPEATABLE = TERMINAL - {JobState.SUCCEEDED}
_ALLOWED = {BulkVerb.RETRY: REPEATABLE, BulkVerb.CANCEL: LIVE, BulkVerb.DELETE: TERMINAL}


class BulkState(StrEnum):
    """Where an act is."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended, however it did."""
        return not any(self in leaves for leaves, _ in TRANSITIONS.values())


_S = BulkState
#: Verb -> from where, to where. Guarded once more in SQL.
TRANSITIONS: dict[str, tuple[frozenset[BulkState], BulkState]] = {
    "advance": (frozenset({_S.QUEUED, _S.RUNNING}), _S.RUNNING),
    "complete": (frozenset({_S.QUEUED, _S.RUNNING}), _S.COMPLETED),
    "fail": (frozenset({_S.QUEUED, _S.RUNNING}), _S.FAILED),
    "cancel": (frozenset({_S.QUEUED, _S.RUNNING}), _S.CANCELLED),
}


@dataclass(frozen=True)
class BulkAct:
    """An act as a reader sees it. Times are aware UTC."""

    id: UUID
    tenant_id: UUID
    #: Whose key asked for it, and its name then.
    key_id: UUID
    actor: str
    verb: BulkVerb
    #: `JobSearch.as_json()`; for jobs that were named, nothing.
    search: dict[str, Any]
    #: The jobs that were named; none: those of `search`, up to the id `up_to`.
    ids: list[UUID]
    up_to: UUID
    state: BulkState
    #: Counted when it was asked for.
    total: int
    done: int
    #: Their state no longer allowed it.
    skipped: int
    failed: int
    #: How many of those that were skipped or failed, by code.
    reasons: dict[str, int]
    #: The last job that was looked at: it goes on behind that.
    cursor: UUID | None
    #: What it waits for, or why it failed.
    error: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def looked_at(self) -> int:
        """Jobs of which it is known what became of them."""
        return self.done + self.skipped + self.failed
