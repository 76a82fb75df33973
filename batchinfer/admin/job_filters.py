"""What the address of the list of jobs asks for: read, written back, and told in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flask import request, url_for
from flask_babel import gettext as _

from batchinfer.admin.language import find_zone, in_zone
from batchinfer.domain import ids
from batchinfer.domain.job_search import JobSearch
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from enum import StrEnum
    from uuid import UUID

#: Characters of a text that is searched for.
MOST_CHARS = 200


@dataclass(frozen=True)
class Filters:
    """What is looked for, and the end of the page that one comes from."""

    search: JobSearch
    before: UUID | None = None
    after: UUID | None = None

    def address(self, endpoint: str = "admin.show_jobs", **changes: Any) -> str:
        """The address of the same list with changes; a page of its own starts again from the newest."""
        values = write_search(self.search) | changes
        return url_for(endpoint, **{name: value for name, value in values.items() if value})

    def parameters(self) -> list[tuple[str, str]]:
        """The same as fields of a form."""
        found = []
        for name, value in write_search(self.search).items():
            found += [(name, one) for one in (value if isinstance(value, list) else [value]) if one]
        return found

    @property
    def narrowed(self) -> bool:
        """Whether anything but the newest jobs of all kinds is asked for."""
        return self.search.is_narrow or self.before is not None or self.after is not None


def write_search(search: JobSearch) -> dict[str, Any]:
    """The parameters of an address by which `read_filters` reads the same."""
    return {
        "state": search.state.value if search.state else None,
        "model": search.model,
        "document": ids.show_id(ids.DOCUMENT, search.document_id) if search.document_id else None,
        "batch": ids.show_id(ids.BATCH, search.batch_id) if search.batch_id else None,
        "class": search.job_class.value if search.job_class else None,
        "from": write_moment(search.created_from),
        "to": write_moment(search.created_before),
        "metadata": [f"{name}={value}" for name, value in (search.metadata or {}).items()],
        "custom_id": search.custom_id,
        "q": search.words,
    }


def write_moment(at: datetime | None) -> str:
    """A time as a field of a form has it, in the page's zone."""
    return in_zone(at).replace(tzinfo=None).isoformat(timespec="minutes") if at else ""


def tell_search(search: JobSearch) -> list[tuple[str, str]]:
    """The conditions as pairs of a name and what is asked, for people."""
    names = {
        "state": _("State"), "model": _("Model"), "document": _("Document"), "batch": _("Batch"), "class": _("Class"),
        "from": _("From"), "to": _("Until"), "metadata": _("Metadata"), "custom_id": _("custom_id"), "q": _("Text"),
    }  # fmt: skip
    written = write_search(search)
    return [
        (names[name], ", ".join(value) if isinstance(value, list) else value)
        for name, value in written.items()
        if value
    ]


def read_filters() -> Filters:
    """The filters of the address. Raises BadRequest with the parameter."""
    search = JobSearch(
        state=_read_word("state", JobState),
        model=_read_text("model"),
        job_class=_read_word("class", JobClass),
        document_id=_read_id(ids.DOCUMENT, "document"),
        batch_id=_read_id(ids.BATCH, "batch"),
        created_from=_read_moment("from"),
        created_before=_read_moment("to"),
        metadata=_read_metadata(),
        custom_id=_read_text("custom_id"),
        words=_read_text("q"),
    )
    if search.created_from and search.created_before and search.created_from >= search.created_before:
        raise BadRequest(_("`to` must be later than `from`."), param="to")
    return Filters(search, _read_id(ids.JOB, "before"), _read_id(ids.JOB, "after"))


def read_job_ids() -> list[UUID]:
    """The jobs that are ticked. Raises BadRequest."""
    try:
        return [ids.parse_id(ids.JOB, text) for text in dict.fromkeys(request.values.getlist("job"))]
    except NotFound as error:
        raise BadRequest(f"job: {error.message}", param="job") from None


def _read_text(name: str) -> str | None:
    text = (request.args.get(name) or "").strip()
    if len(text) > MOST_CHARS:
        raise BadRequest(_("`%(name)s` may have at most %(most)s characters.", name=name, most=MOST_CHARS), param=name)
    return text or None


def _read_word(name: str, words: type[StrEnum]) -> Any:
    text = _read_text(name)
    if text is None:
        return None
    known = [word.value for word in words]
    if text not in known:
        raise BadRequest(
            _("%(name)s must be one of %(words)s, or left out for all.", name=name, words=", ".join(known)), param=name
        )
    return words(text)


def _read_id(prefix: str, name: str) -> UUID | None:
    text = _read_text(name)
    if text is None:
        return None
    try:
        return ids.parse_id(prefix, text)
    except NotFound as error:
        raise BadRequest(f"{name}: {error.message}", param=name) from None


def _read_moment(name: str) -> datetime | None:
    text = _read_text(name)
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at if at.tzinfo else at.replace(tzinfo=find_zone())
        in_zone(at)  # the ends of time are in no zone
    except (ValueError, OverflowError):
        raise BadRequest(_("`%(name)s` must be a time like 2026-01-31T18:00.", name=name), param=name) from None
    return at


def _read_metadata() -> dict[str, str] | None:
    pairs = [text.strip() for text in request.args.getlist("metadata") if text.strip()]
    found = {}
    for pair in pairs[:10]:
        name, sign, value = pair.partition("=")
        if not sign or not name or len(pair) > 2 * MOST_CHARS:
            raise BadRequest(_("`metadata` must be key=value."), param="metadata")
        found[name] = value
    return found or None
