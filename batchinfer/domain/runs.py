"""A run reads documents once: its source, listed into a manifest, goes through a pipeline into sinks.

A schedule makes a run for each of its instants; a user may declare one by hand. A run that has begun is a batch of
the endpoint `DOCUMENTS`, whose lines are its pages: the batch says how far it is, this table what it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from batchinfer.domain.batches import Batch, BatchState, parse_window
from batchinfer.domain.fields import check_plain, join, read_object, read_text, refuse_unknown, require
from batchinfer.domain.pipelines import Pipeline, parse_pipeline
from batchinfer.domain.prompts import parse_metadata
from batchinfer.domain.review import Sample, parse_sample
from batchinfer.domain.sinks import Sink, parse_sinks
from batchinfer.domain.sources import Source, parse_source

if TYPE_CHECKING:
    from batchinfer.domain.limits import Limits

#: The endpoint of the batch under a run.
DOCUMENTS = "/v1/documents"
MAX_NAME_CHARS = 64
#: A run without a window of its own.
LONGEST_WINDOW = timedelta(days=30)


class RunState(StrEnum):
    """Where a run is. `due`, `skipped` and `missed` are its own word; the others follow from its batch."""

    #: Fired, and not begun: its jitter has not passed, or it waits for the run before it.
    DUE = "due"
    #: Documents are listed, rendered and read.
    RUNNING = "running"
    #: By an operator, or by itself: `cause` says why.
    PAUSED = "paused"
    #: All pages have ended; the last shards, the manifest and the report are written.
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    #: All is done, and some pages or documents failed.
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    #: It could not be done: the source could not be listed, or the sinks not be written.
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: Its window closed before all pages had ended.
    EXPIRED = "expired"
    #: Not begun: the run before it was still at work.
    SKIPPED = "skipped"
    #: Not begun: nobody ticked at its instant, and the policy is not to make up for it.
    MISSED = "missed"


TERMINAL = frozenset(
    {RunState.COMPLETED, RunState.COMPLETED_WITH_ERRORS, RunState.FAILED, RunState.CANCELLED, RunState.EXPIRED,
     RunState.SKIPPED, RunState.MISSED}
)  # fmt: skip


class PageOutcome(StrEnum):
    """How a page of a run ended. Which one is told by the job's state and by who answered (`find_page_outcome`)."""

    OK = "ok"
    #: The PDF's own text stands for an answer that no try brought.
    FALLBACK = "fallback"
    FAILED = "failed"
    #: Nothing is on it: decided by looking at the page.
    BLANK = "blank"


#: `results.engine` of a page that no model read.
BLANK_ENGINE, TEXT_LAYER_ENGINE = "blank", "text_layer"


def find_page_outcome(*, succeeded: bool, engine: str | None) -> PageOutcome:
    """How a page ended, from whether its job succeeded and who answered."""
    if not succeeded:
        return PageOutcome.FAILED
    return {BLANK_ENGINE: PageOutcome.BLANK, TEXT_LAYER_ENGINE: PageOutcome.FALLBACK}.get(engine or "", PageOutcome.OK)


@dataclass(frozen=True)
class RunSpec:
    """What a run is to do, parsed. A schedule's is the same, with a timing beside it."""

    source: Source
    pipeline: Pipeline
    sinks: tuple[Sink, ...]
    sample: Sample
    metadata: dict[str, str]
    name: str | None = None
    window: timedelta | None = None


SPEC_FIELDS = ("name", "source", "pipeline", "sinks", "sample", "metadata", "window")


def parse_spec(body: object, limits: Limits, *, more: tuple[str, ...] = ()) -> RunSpec:
    """A run from decoded JSON; `more` are fields beside it that another reader reads. Raises BadRequest."""
    given = read_object(body, "body")
    refuse_unknown(given, (*SPEC_FIELDS, *more))
    check_plain(given)
    name, window = given.get("name"), given.get("window")
    return RunSpec(
        source=parse_source(require(given, "source", "Say where the documents are.")),
        pipeline=parse_pipeline(require(given, "pipeline", "Say how they are read."), limits),
        sinks=parse_sinks(given.get("sinks")),
        sample=parse_sample(given.get("sample")),
        metadata=parse_metadata(given.get("metadata")),
        name=None if name is None else read_text(name, "name", max_chars=MAX_NAME_CHARS),
        window=None if window is None else parse_window(window, join("", "window")),
    )


@dataclass(frozen=True)
class RunCounts:
    """How far a run is. Pages are in its batch; those that ended well are split here."""

    documents: int = 0
    #: Unchanged since an earlier run with the same recipe.
    skipped: int = 0
    closed: int = 0
    #: Of the closed ones.
    failed: int = 0
    with_errors: int = 0
    pages_blank: int = 0
    pages_fallback: int = 0
    #: Bytes of the documents listed.
    listed_bytes: int = 0


@dataclass(frozen=True)
class Run:
    """A run as a reader sees it. Times are aware UTC; `batch` is None until it begins."""

    id: UUID
    tenant_id: UUID
    name: str | None
    state: RunState
    #: As it was declared, with the texts of its template and the model's revision resolved at its begin.
    spec: dict[str, Any]
    created_at: datetime
    counts: RunCounts
    #: Whose usage its pages are.
    key_id: UUID | None = None
    schedule_id: UUID | None = None
    #: The one of the schedule that it was made of.
    schedule_version: int | None = None
    #: The moment that the schedule names.
    instant: datetime | None = None
    due_at: datetime | None = None
    begun_at: datetime | None = None
    listed_at: datetime | None = None
    finished_at: datetime | None = None
    #: Why it paused itself, was skipped or failed: {"code", "message", …}.
    cause: dict[str, Any] | None = None
    recipe: str | None = None
    batch: Batch | None = None
    #: Bytes of all rendered pages, and how many shards of its sinks are sealed.
    page_bytes: int = 0
    shards: int = 0
    files: dict[str, str] = field(default_factory=dict)


_OF_BATCH = {
    BatchState.VALIDATING: RunState.RUNNING,
    BatchState.IN_PROGRESS: RunState.RUNNING,
    BatchState.FINALIZING: RunState.FINALIZING,
    BatchState.CANCELLING: RunState.RUNNING,
    BatchState.FAILED: RunState.FAILED,
    BatchState.EXPIRED: RunState.EXPIRED,
    BatchState.CANCELLED: RunState.CANCELLED,
}


def count_pages(run: Run) -> dict[str, int]:
    """Pages of a run that became jobs, by how they ended; what has not ended is in `total` alone."""
    if run.batch is None:
        return dict.fromkeys(("total", "ok", "fallback", "failed", "blank", "expired", "cancelled"), 0)
    counts, blank, fallback = run.batch.counts, run.counts.pages_blank, run.counts.pages_fallback
    return {
        "total": counts.total, "ok": counts.completed - blank - fallback, "fallback": fallback,
        "failed": counts.failed, "blank": blank, "expired": counts.expired, "cancelled": counts.cancelled,
    }  # fmt: skip


def derive_state(own: RunState, batch: Batch | None, counts: RunCounts) -> RunState:
    """The state of a run from its own row's word and its batch."""
    if batch is None or own is not RunState.RUNNING:
        return own
    if batch.status is BatchState.COMPLETED:
        bad = batch.counts.failed or counts.failed or counts.with_errors
        return RunState.COMPLETED_WITH_ERRORS if bad else RunState.COMPLETED
    if batch.status is BatchState.IN_PROGRESS and "paused_at" in batch.times:
        return RunState.PAUSED
    return _OF_BATCH[batch.status]
