"""A document is a file of several pages; each page is a job. Its state follows from its own row and its pages'."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from batchinfer.domain import jobs
from batchinfer.domain.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping


class DocumentState(StrEnum):
    """Where a document is."""

    QUEUED = "queued"
    RENDERING = "rendering"
    RUNNING = "running"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """How a document of a run ended."""

    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    #: It could not be read, or more of its pages failed than the run allows.
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


#: States in which a document changes no more.
TERMINAL = frozenset(
    {DocumentState.COMPLETED, DocumentState.COMPLETED_WITH_ERRORS, DocumentState.FAILED, DocumentState.CANCELLED}
)
#: The code of the error by which a document that its owner ended is told from one that failed.
CANCELLED_CODE = "document_cancelled"
#: The code of the error of what ended because its time was over.
EXPIRED_CODE = "expired"


@dataclass(frozen=True)
class Document:
    """A document as a reader sees it. `pages` is None until the file was opened."""

    id: UUID
    tenant_id: UUID
    state: DocumentState
    model: str
    filename: str | None
    media_type: str
    created_at: datetime
    finished_at: datetime | None
    #: Pages of the file; None until a CPU worker opened it.
    pages: int | None
    #: How many page jobs are in each job state.
    counts: dict[JobState, int]
    error: dict[str, Any] | None


def derive_state(
    *, rendered: bool, started: bool, error: dict[str, Any] | None, counts: dict[JobState, int]
) -> DocumentState:
    """The state of a document from whether its pages were all made, and how those stand."""
    cancelled = error is not None and error.get("code") == CANCELLED_CODE
    if error is not None and not counts:
        return DocumentState.CANCELLED if cancelled else DocumentState.FAILED
    if not rendered:
        return DocumentState.RENDERING if started or counts else DocumentState.QUEUED
    if any(count for state, count in counts.items() if state not in jobs.TERMINAL):
        return DocumentState.RUNNING
    if cancelled:
        return DocumentState.CANCELLED
    total = sum(counts.values())
    if counts.get(JobState.SUCCEEDED, 0) == total and error is None:
        return DocumentState.COMPLETED
    if counts.get(JobState.CANCELLED, 0) == total:
        return DocumentState.CANCELLED
    if counts.get(JobState.SUCCEEDED, 0) == 0:
        return DocumentState.FAILED
    return DocumentState.COMPLETED_WITH_ERRORS


def find_outcome(
    counts: Mapping[JobState, int], *, missing: int, error: Mapping[str, Any] | None, max_failed_share: float
) -> Outcome:
    """How a document of a run ended: by how its jobs did, and by its own error. `missing` are jobs that it should have
    and that were never made, because of that error."""
    code = (error or {}).get("code")
    if counts.get(JobState.CANCELLED) or code == CANCELLED_CODE:
        return Outcome.CANCELLED
    if counts.get(JobState.EXPIRED) or code == EXPIRED_CODE:
        return Outcome.EXPIRED
    total = sum(counts.values()) + missing
    bad = total - counts.get(JobState.SUCCEEDED, 0)
    if error is not None and bad == total:
        return Outcome.FAILED
    if bad > max_failed_share * total:
        return Outcome.FAILED
    return Outcome.COMPLETED_WITH_ERRORS if bad or error is not None else Outcome.COMPLETED
