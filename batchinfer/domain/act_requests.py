"""What a request for an act on many jobs may ask: the verb, and jobs by their ids or by what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batchinfer.domain.bulk_acts import MOST_NAMED, BulkVerb
from batchinfer.domain.fields import (
    check_plain,
    join,
    read_list,
    read_number,
    read_object,
    read_text,
    read_word,
    refuse,
    refuse_unknown,
    require,
)
from batchinfer.domain.ids import BATCH, DOCUMENT, JOB, parse_id
from batchinfer.domain.job_search import JobSearch
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.domain.prompts import MAX_MODEL_CHARS, parse_metadata
from batchinfer.errors import NotFound

if TYPE_CHECKING:
    from uuid import UUID

MOST_CHARS = 200
#: Seconds since 1970 that a time may be.
LAST_S = 10**10
SEARCH_FIELDS = (
    "status", "model", "class", "document", "batch", "created_from", "created_before", "metadata", "custom_id", "text",
)  # fmt: skip


@dataclass(frozen=True)
class ActRequest:
    """Exactly one of `ids` and `search` is given. `up_to`: jobs that came later than this one are not touched."""

    verb: BulkVerb
    ids: tuple[UUID, ...] = ()
    search: JobSearch | None = None
    up_to: UUID | None = None


def parse_act(body: object) -> ActRequest:
    """An act from a decoded JSON body. Raises BadRequest with the dotted path of the field."""
    check_plain(body)
    given = {name: value for name, value in read_object(body, "body").items() if value is not None}
    refuse_unknown(given, ("verb", "jobs", "search", "up_to"))
    verb = BulkVerb(read_word(require(given, "verb", "One of retry, cancel, delete."), "verb", list(BulkVerb)))
    if ("jobs" in given) is ("search" in given):
        refuse("jobs", "or `search` must be there, one of the two: say which jobs.", "missing_required_parameter")
    ids: tuple[UUID, ...] = ()
    if "jobs" in given:
        named = read_list(given["jobs"], "jobs")
        if not 1 <= len(named) <= MOST_NAMED:
            refuse("jobs", f"must name from 1 to {MOST_NAMED:,} jobs; say what they have in common in `search`.")
        ids = tuple(dict.fromkeys(_read_id(JOB, text, join("jobs", at)) for at, text in enumerate(named)))
    return ActRequest(
        verb,
        ids,
        _parse_search(given["search"]) if "search" in given else None,
        _read_id(JOB, given["up_to"], "up_to") if "up_to" in given else None,
    )


def _parse_search(value: object) -> JobSearch:
    given = {name: one for name, one in read_object(value, "search").items() if one is not None}
    refuse_unknown(given, SEARCH_FIELDS, "search")

    def text(name: str, most: int = MOST_CHARS) -> str | None:
        return read_text(given[name], join("search", name), max_chars=most) if name in given else None

    def thing(prefix: str, name: str) -> UUID | None:
        return _read_id(prefix, given[name], join("search", name)) if name in given else None

    def word(name: str, words: Any) -> Any:
        return words(read_word(given[name], join("search", name), list(words))) if name in given else None

    search = JobSearch(
        state=word("status", JobState),
        model=text("model", MAX_MODEL_CHARS),
        job_class=word("class", JobClass),
        document_id=thing(DOCUMENT, "document"),
        batch_id=thing(BATCH, "batch"),
        created_from=_read_time(given, "created_from"),
        created_before=_read_time(given, "created_before"),
        metadata=parse_metadata(given["metadata"]) if "metadata" in given else None,
        custom_id=text("custom_id"),
        words=text("text"),
    )
    if search.created_from and search.created_before and search.created_from >= search.created_before:
        refuse("search.created_before", "must be later than `created_from`.")
    return search


def _read_time(given: dict[str, Any], name: str) -> datetime | None:
    if name not in given:
        return None
    return datetime.fromtimestamp(read_number(given[name], join("search", name), 0.0, float(LAST_S)), UTC)


def _read_id(prefix: str, value: object, at: str) -> UUID:
    text = read_text(value, at, max_chars=MOST_CHARS)
    try:
        return parse_id(prefix, text)
    except NotFound:
        refuse(at, f"must be an id that begins with {prefix}.")
