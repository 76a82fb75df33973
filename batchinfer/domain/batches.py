"""A batch is a user's collection of requests, told in OpenAI's eight states. The table below is its state machine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from batchinfer.domain.fields import read_object, read_text, read_word, refuse, refuse_unknown, require
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.prompts import parse_metadata
from batchinfer.domain.reuse import Reuse, parse_cache
from batchinfer.domain.userfiles import LONGEST_EXPIRY_S, parse_expires_after

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Characters of a custom id: OpenAI states no limit, and 64 is what others enforce.
MAX_CUSTOM_ID_CHARS = 256
#: Bad lines of a file that are told of; more are counted.
MAX_ERRORS = 100
#: What a line may ask for. A line of the last one is the body of a job as it is, with a `custom_id` beside its fields.
NATIVE = "/v1/jobs"
ENDPOINTS = ("/v1/chat/completions", "/v1/responses", NATIVE)
_WINDOW = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_LONGEST = timedelta(days=30)


class BatchState(StrEnum):
    """Where a batch is, word for word as OpenAI's SDK types it."""

    #: A CPU worker reads the input file.
    VALIDATING = "validating"
    #: Every line is a job; not all of them have ended.
    IN_PROGRESS = "in_progress"
    #: All have ended; the files of answers are being written.
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    #: The file was bad, or could not be read.
    FAILED = "failed"
    EXPIRED = "expired"
    #: Its owner ended it; what runs is being ended, then the files are written.
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


_LIVE = frozenset({BatchState.VALIDATING, BatchState.IN_PROGRESS, BatchState.FINALIZING, BatchState.CANCELLING})
#: Verb -> (states it may leave, state it leads to).
TRANSITIONS: dict[str, tuple[frozenset[BatchState], BatchState]] = {
    "begin": (frozenset({BatchState.VALIDATING}), BatchState.IN_PROGRESS),
    "refuse": (frozenset({BatchState.VALIDATING}), BatchState.FAILED),
    "finalize": (frozenset({BatchState.IN_PROGRESS}), BatchState.FINALIZING),
    "cancel": (
        frozenset({BatchState.VALIDATING, BatchState.IN_PROGRESS, BatchState.FINALIZING}),
        BatchState.CANCELLING,
    ),
    "complete": (frozenset({BatchState.FINALIZING}), BatchState.COMPLETED),
    "expire": (frozenset({BatchState.VALIDATING, BatchState.FINALIZING}), BatchState.EXPIRED),
    "end_cancel": (frozenset({BatchState.CANCELLING}), BatchState.CANCELLED),
    "break": (_LIVE, BatchState.FAILED),
    # Of a run whose sinks could not be written: its results are there, and are written once more.
    "reopen": (frozenset({BatchState.FAILED}), BatchState.FINALIZING),
}
TERMINAL = frozenset({BatchState.COMPLETED, BatchState.FAILED, BatchState.EXPIRED, BatchState.CANCELLED})


@dataclass(frozen=True)
class Counts:
    """How the lines of a batch stand. They only grow; `total` is 0 until the file was read."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0

    @property
    def ended(self) -> int:
        """Lines that will not change any more."""
        return self.completed + self.failed + self.expired + self.cancelled


@dataclass(frozen=True)
class Batch:
    """A batch as a reader sees it. Times are aware UTC; `times` holds those that have come, by their name."""

    id: UUID
    tenant_id: UUID
    status: BatchState
    endpoint: str
    #: None for a batch of documents.
    input_file_id: UUID | None
    completion_window: str
    created_at: datetime
    expires_at: datetime
    counts: Counts
    job_class: JobClass
    #: The one model of all lines, or None where they name several.
    model: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    output_file_id: UUID | None = None
    error_file_id: UUID | None = None
    #: The batch whose lines this one tries again.
    parent_id: UUID | None = None
    #: Lines of its files that are those of batches before it, once they are written.
    merged: int = 0
    #: Lines that took over an answer that was kept.
    cache_hits: int = 0
    times: dict[str, datetime] = field(default_factory=dict)


def find_end(batch: Batch) -> BatchState:
    """What a batch is once its files are written."""
    if batch.status is BatchState.CANCELLING:
        return BatchState.FAILED if batch.errors else BatchState.CANCELLED
    return BatchState.EXPIRED if batch.counts.expired else BatchState.COMPLETED


def parse_window(value: object, at: str = "completion_window") -> timedelta:
    """The time that something has: `24h`, or any whole number of m, h or d up to 30 days. Raises BadRequest."""
    found = _WINDOW.fullmatch(value) if isinstance(value, str) else None
    window = int(found[1]) * _UNITS[found[2]] if found else timedelta(0)
    if not timedelta(0) < window <= _LONGEST:
        refuse(at, "must be a time such as 24h, 90m or 7d, of at most 30 days.")
    return window


#: What `batchinfer.priority` may say, beside the words of a job's class.
PRIORITIES = {"low": JobClass.BATCH, "normal": JobClass.NORMAL, "high": JobClass.INTERACTIVE}
_OPTIONS = ("endpoint", "completion_window", "metadata", "output_expires_after", "batchinfer")
#: What a batch whose lines are the body of its request may leave out.
_USUAL = {"endpoint": NATIVE, "completion_window": "24h"}


@dataclass(frozen=True)
class BatchRequest:
    """A valid request for a batch. The file is named as the user sees its id; None where the lines come with it."""

    input_file_id: str | None
    endpoint: str
    completion_window: str
    window: timedelta
    metadata: dict[str, str]
    output_expires_s: int
    job_class: JobClass
    #: Of those lines that do not say.
    cache: Reuse | None = None


def parse_batch(body: object) -> BatchRequest:
    """A request from a decoded JSON body. Raises BadRequest with the dotted path of the field."""
    given = read_object(body, "body")
    refuse_unknown(given, ("input_file_id", *_OPTIONS))
    file_id = read_text(require(given, "input_file_id", "Upload a file first."), "input_file_id", max_chars=64)
    return _parse_options(given, file_id)


def parse_bulk(options: Mapping[str, object]) -> BatchRequest:
    """A request whose lines are the body, from what stands beside them. Raises BadRequest with the name."""
    refuse_unknown(options, _OPTIONS)
    return _parse_options(_USUAL | {name: value for name, value in options.items() if value is not None}, None)


def _parse_options(given: Mapping[str, object], file_id: str | None) -> BatchRequest:
    endpoint = read_word(require(given, "endpoint", f"Say {ENDPOINTS[0]}."), "endpoint", ENDPOINTS)
    said = require(given, "completion_window", "Say 24h.")
    window = parse_window(said)
    after = given.get("output_expires_after")
    ours = read_object(given.get("batchinfer") or {}, "batchinfer")
    refuse_unknown(ours, ("priority", "cache"), "batchinfer")
    priority = read_word(ours.get("priority", "low"), "batchinfer.priority", PRIORITIES)
    return BatchRequest(
        input_file_id=file_id,
        endpoint=endpoint,
        completion_window=str(said),
        window=window,
        metadata=parse_metadata(given.get("metadata")),
        output_expires_s=LONGEST_EXPIRY_S if after is None else parse_expires_after(after, "output_expires_after"),
        job_class=PRIORITIES[priority],
        cache=parse_cache(ours.get("cache"), "batchinfer.cache"),
    )


def parse_class(body: object) -> JobClass:
    """The class that a batch is to have, from a decoded JSON body. Raises BadRequest."""
    given = read_object(body, "body")
    refuse_unknown(given, ("class",))
    words = ", ".join(JobClass)
    return JobClass(read_word(require(given, "class", f"Say one of {words}."), "class", JobClass))
