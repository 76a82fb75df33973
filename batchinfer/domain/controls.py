"""What an operator asks of the queue: which rows a control is about, another class, a tenant's limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.domain.fields import check_plain, read_int, read_list, read_object, read_text, read_word, refuse_unknown
from batchinfer.domain.ids import JOB, parse_id
from batchinfer.domain.jobs import JobClass
from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from uuid import UUID

SCOPE_FIELDS = frozenset({"tenant", "model"})
RECLASS_FIELDS = SCOPE_FIELDS | {"class", "from_class", "ids"}
LIMIT_FIELDS = frozenset({"tenant", "max_jobs", "weight"})
_NAME_CHARS, _MOST_IDS, _MOST_JOBS, _MOST_WEIGHT = 256, 10_000, 2**53, 1000


@dataclass(frozen=True)
class ScopeRequest:
    """Rows of a tenant and of a model, by name; None for all of them."""

    tenant: str | None
    model: str | None


@dataclass(frozen=True)
class ReclassRequest:
    """Another class for the rows of a scope: those of `from_class`, those with `ids`, or all."""

    scope: ScopeRequest
    job_class: JobClass
    from_class: JobClass | None
    ids: tuple[UUID, ...] | None


@dataclass(frozen=True)
class LimitsRequest:
    """A tenant's limits; `max_jobs` None takes the setting."""

    tenant: str | None
    max_jobs: int | None
    weight: int


def parse_scope(body: object) -> ScopeRequest:
    """The body of a pause or resume. Raises BadRequest."""
    return _scope(_open(body, SCOPE_FIELDS))


def parse_reclass(body: object) -> ReclassRequest:
    """The body of a change of class. Raises BadRequest."""
    given = _open(body, RECLASS_FIELDS)
    if "class" not in given:
        raise BadRequest(
            f"`class` is needed: one of {', '.join(JobClass)}.", code="missing_required_parameter", param="class"
        )
    ids = None
    if "ids" in given:
        shown = read_list(given["ids"], "ids")
        if len(shown) > _MOST_IDS:
            raise BadRequest(f"`ids` may name at most {_MOST_IDS:,} jobs.", code="invalid_value", param="ids")
        ids = tuple(parse_id(JOB, read_text(text, f"ids.{n}", max_chars=_NAME_CHARS)) for n, text in enumerate(shown))
    return ReclassRequest(
        _scope(given),
        JobClass(read_word(given["class"], "class", JobClass)),
        JobClass(read_word(given["from_class"], "from_class", JobClass)) if "from_class" in given else None,
        ids,
    )


def parse_limits(body: object) -> LimitsRequest:
    """The body of a change of limits. Raises BadRequest."""
    given = _open(body, LIMIT_FIELDS)
    return LimitsRequest(
        _name(given, "tenant"),
        read_int(given["max_jobs"], "max_jobs", 0, _MOST_JOBS) if "max_jobs" in given else None,
        read_int(given["weight"], "weight", 1, _MOST_WEIGHT) if "weight" in given else 1,
    )


def _open(body: object, fields: frozenset[str]) -> dict[str, Any]:
    """The fields that are given; null is as left out."""
    check_plain(body)
    given = read_object(body, "body")
    refuse_unknown(given, fields)
    return {name: value for name, value in given.items() if value is not None}


def _scope(given: dict[str, Any]) -> ScopeRequest:
    return ScopeRequest(_name(given, "tenant"), _name(given, "model"))


def _name(given: dict[str, Any], field: str) -> str | None:
    return read_text(given[field], field, max_chars=_NAME_CHARS) if field in given else None
