"""Which jobs somebody looks for: what a list of them may be narrowed by, and how that is kept."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from batchinfer.domain.jobs import JobClass, JobFilter, JobState


@dataclass(frozen=True)
class JobSearch(JobFilter):
    """A filter of jobs with what only people ask for. None leaves a condition out."""

    #: The name of a line in its batch.
    custom_id: str | None = None
    #: A text in the prompt or in the answer, whatever the case of its letters.
    words: str | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether anything but all jobs is looked for."""
        return any(getattr(self, field.name) is not None for field in fields(self))

    def as_json(self) -> dict[str, Any]:
        """As it is stored: the conditions that there are."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _store(value) for name, value in values.items() if value is not None}

    @classmethod
    def of(cls, stored: dict[str, Any]) -> JobSearch:
        """What was stored. Raises ValueError, KeyError for what no search is."""
        known = {field.name for field in fields(cls)}
        if unknown := stored.keys() - known:
            raise KeyError(*unknown)
        return cls(**{name: _READERS.get(name, _keep)(value) for name, value in stored.items()})


def _store(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.hex if isinstance(value, UUID) else value


def _keep(value: Any) -> Any:
    return value


_READERS: dict[str, Any] = {
    "state": JobState, "job_class": JobClass, "document_id": UUID, "batch_id": UUID,
    "created_from": datetime.fromisoformat, "created_before": datetime.fromisoformat,
}  # fmt: skip
