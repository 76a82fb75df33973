"""Looking at many jobs and documents at once: by the newest pages of their lists, and one by one where those end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from batchinfer.client.nouns import Document, Job, Problem
from batchinfer.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from batchinfer.client.jobs import Documents, Jobs

#: How one ended: its status, its jobs, and what went wrong with the whole.
Ended: TypeAlias = "tuple[str, tuple[Job, ...], Problem | None]"
#: The status of what the service does not know any more.
GONE = "gone"
#: So few are asked for one by one; of more, those that the list did not show, so many a look.
_FEW, _SINGLY = 4, 16

Thing_co = TypeVar("Thing_co", Job, Document, covariant=True)


class _Listed(Protocol[Thing_co]):
    """`client.jobs` or `client.documents`."""

    def get(self, thing_id: str, /) -> Thing_co: ...

    def list(self) -> Iterator[Thing_co]: ...


@dataclass(frozen=True)
class _Gone:
    id: str
    problem: Problem


class Sweep:
    """Finds what has ended. One thread."""

    def __init__(self, jobs: Jobs, documents: Documents) -> None:
        self._jobs, self._documents = jobs, documents
        self._turn = 0

    def find_ended(self, ids: Collection[str]) -> dict[str, Ended]:
        """Of these jobs and documents, those that have ended, and those that are gone."""
        found: dict[str, Ended] = {}
        documents = {thing_id for thing_id in ids if thing_id.startswith("doc_")}
        for job in self._look(set(ids) - documents, self._jobs):
            if isinstance(job, _Gone):
                found[job.id] = GONE, (), job.problem
            elif job.ended:
                found[job.id] = job.status, (job,), job.error
        for document in self._look(documents, self._documents):
            if isinstance(document, _Gone):
                found[document.id] = GONE, (), document.problem
            elif document.ended:
                pages = sorted(self._jobs.list(document=document.id), key=lambda job: job.page or 0)
                found[document.id] = document.status, tuple(pages), document.error
        return found

    def pause(self, ids: Collection[str], seconds: float) -> None:
        """Wait so long, less where the oldest job of these ends sooner."""
        began_s = time.monotonic()
        jobs = [thing_id for thing_id in ids if not thing_id.startswith("doc_")]
        if jobs:
            try:
                if self._jobs.get(min(jobs), wait_s=seconds).ended:
                    return
            except NotFound:
                return
        time.sleep(max(0.0, seconds - (time.monotonic() - began_s)))

    def _look(self, ids: set[str], noun: _Listed[Thing_co]) -> Iterator[Thing_co | _Gone]:
        """Each of these as it stands, or at least some that were not looked at before."""
        unseen = set(ids)
        if len(ids) > _FEW:
            for thing in self._list_newest(ids, noun):
                unseen.discard(thing.id)
                yield thing
        rest = sorted(unseen)
        first = self._turn % len(rest) if rest else 0
        self._turn += _SINGLY
        for thing_id in (rest[first:] + rest[:first])[:_SINGLY]:
            try:
                yield noun.get(thing_id)
            except NotFound as error:
                yield _Gone(thing_id, Problem.model_validate(error.as_dict()))

    def _list_newest(self, ids: set[str], noun: _Listed[Thing_co]) -> Iterator[Thing_co]:
        """Those that the list shows, down to the oldest; not far beyond where others fill it. Ids sort by time."""
        left, oldest, most = len(ids), min(ids), 2 * len(ids) + 100
        for number, thing in enumerate(noun.list()):
            if thing.id in ids:
                left -= 1
                yield thing
            if not left or thing.id <= oldest or number >= most:
                return
