"""A batch seen line by line: its items, why those failed that failed, and which of them are to be tried again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchinfer.domain.batches import MAX_CUSTOM_ID_CHARS, parse_window
from batchinfer.domain.fields import join, read_flag, read_list, read_object, read_text, read_word, refuse_unknown
from batchinfer.domain.jobs import JobState
from batchinfer.domain.prompts import parse_metadata
from batchinfer.domain.retries import MODEL_OUTPUT_CODES
from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta
    from uuid import UUID

#: Most custom ids of one retry.
MAX_NAMED = 10_000
#: Most codes of one retry, and characters of one.
MAX_CODES, _CODE_CHARS = 100, 100
#: What is told of lines that ended without an answer and without a fault, in the words of the error file.
NEVER_RAN = {
    JobState.EXPIRED: {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    },
    JobState.CANCELLED: {"code": "batch_cancelled", "message": "This request was cancelled before it was executed."},
}
#: Words of a retry, and the states that each of them means.
ONLY = {
    "failed": (JobState.FAILED, JobState.QUARANTINED),
    "expired": (JobState.EXPIRED,),
    "cancelled": (JobState.CANCELLED,),
}


@dataclass(frozen=True)
class Item:
    """A line of a batch that is a job. Times are aware UTC."""

    job_id: UUID
    line: int
    custom_id: str
    state: JobState
    attempts: int
    created_at: datetime
    finished_at: datetime | None
    error: dict[str, Any] | None

    @property
    def id(self) -> UUID:
        """Its cursor: the job's."""
        return self.job_id


@dataclass(frozen=True)
class Cause:
    """Lines that failed for the same reason; `line` is the first of them, `custom_id` and `message` are that line's."""

    code: str
    error_type: str
    state: JobState | None
    count: int
    line: int | None
    custom_id: str | None
    message: str

    @property
    def kind(self) -> str:
        """request, model_output, lost_worker, expired, cancelled or server: whose fault it was."""
        if self.state in NEVER_RAN:
            return self.state.value
        if self.state is JobState.QUARANTINED:
            return "lost_worker"
        if self.code in MODEL_OUTPUT_CODES:
            return "model_output"
        return "request" if self.error_type == BadRequest.kind else "server"

    @property
    def retry_helps(self) -> bool:
        """Whether the same line may end otherwise."""
        return self.kind != "request"


@dataclass(frozen=True)
class RetryRequest:
    """Which lines of a batch to try again, and how. None takes what the batch had."""

    states: tuple[JobState, ...]
    merge: bool = True
    custom_ids: tuple[str, ...] = ()
    #: Those that ended for these reasons; empty: for any.
    codes: tuple[str, ...] = ()
    completion_window: str | None = None
    window: timedelta | None = None
    metadata: dict[str, str] | None = None


def parse_retry(body: object) -> RetryRequest:
    """A request from a decoded JSON body. Raises BadRequest with the dotted path of the field."""
    given = read_object(body, "body")
    refuse_unknown(given, ("only", "merge", "custom_ids", "codes", "completion_window", "metadata"))
    words = given.get("only")
    listed = list(ONLY) if words is None else read_list(words, "only")
    read = [read_word(word, join("only", index), ONLY) for index, word in enumerate(listed)]
    if not read:
        raise BadRequest("`only` is empty. Leave it out to retry whatever has no answer.", param="only")
    said = given.get("completion_window")
    return RetryRequest(
        states=tuple(state for word in ONLY if word in read for state in ONLY[word]),
        merge=given.get("merge") is None or read_flag(given["merge"], "merge"),
        custom_ids=_read_names(given.get("custom_ids"), "custom_ids", MAX_NAMED, MAX_CUSTOM_ID_CHARS),
        codes=_read_names(given.get("codes"), "codes", MAX_CODES, _CODE_CHARS),
        completion_window=None if said is None else str(said),
        window=None if said is None else parse_window(said),
        metadata=None if given.get("metadata") is None else parse_metadata(given["metadata"]),
    )


def parse_reread(body: object) -> tuple[str, ...]:
    """Which documents of a run are read again: those with pages that failed for one of these codes; none: for any.
    Raises BadRequest."""
    given = read_object(body, "body")
    refuse_unknown(given, ("codes",))
    return _read_names(given.get("codes"), "codes", MAX_CODES, _CODE_CHARS)


def _read_names(value: object, at: str, most: int, max_chars: int) -> tuple[str, ...]:
    if value is None:
        return ()
    names = read_list(value, at)
    if not 1 <= len(names) <= most:
        raise BadRequest(f"`{at}` must have from 1 to {most:,} entries.", param=at)
    return tuple(read_text(name, join(at, index), max_chars=max_chars) for index, name in enumerate(names))


def show_fault(state: JobState, error: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Why a line has no answer: message, type, param and code; None where it has one, or may get one."""
    if state in NEVER_RAN:
        return {**NEVER_RAN[state], "type": "server_error", "param": None}
    if error is None:
        return None
    return {
        "message": error.get("message", "The request failed."), "type": error.get("type", "server_error"),
        "param": error.get("param"), "code": error.get("code", "failed"),
    }  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """Which lines of a file a batch is about: those of `numbers`, and behind line `beyond` all that `within` takes.

    A batch that was cancelled while it was read has lines behind the last one that became a job.
    """

    numbers: frozenset[int] = field(default_factory=frozenset)
    beyond: int | None = 0
    within: Selection | None = None

    def takes(self, number: int) -> bool:
        """Whether the line is meant."""
        if number in self.numbers:
            return True
        behind = self.beyond is not None and number > self.beyond
        return behind and (self.within is None or self.within.takes(number))


#: Every line.
ALL = Selection()
