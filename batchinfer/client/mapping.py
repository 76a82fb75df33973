"""One request over many files: so many in flight, bad files told of and passed over, outcomes as they come."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.client.nouns import Document, Job, Problem
from batchinfer.errors import BadRequest, BatchinferError, Busy, Forbidden, InFlight, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from batchinfer.client.journal import Journal
    from batchinfer.client.submission import Part
    from batchinfer.client.sweep import Sweep

#: Files that are uploaded at once.
_SUBMITTERS = 4
#: Pauses between two looks at what is in flight, in seconds: the first, how each grows, the longest.
_FIRST_S, _GROWTH, _LONGEST_S = 0.1, 1.5, 2.0
#: The service cannot be used at all: another file would meet the same.
_FOR_ALL = (Unauthenticated, Forbidden, Unavailable, Busy, InFlight)
#: The service never took the file.
REFUSED = "refused"


@dataclass(frozen=True)
class Item:
    """A file of the run. `name` is how it is told of, `index` its place, from 0."""

    index: int
    name: str
    path: Path


@dataclass(frozen=True)
class Outcome:
    """How one file ended. `jobs` is one job, or a document's pages in order; empty where there never were any."""

    index: int
    #: Relative to the folder, with slashes; else as it was given.
    file: str
    #: Of its bytes; None where they could not be read.
    sha256: str | None
    #: Of the job or document; None where the service refused the file.
    id: str | None
    #: The job's or document's, or `refused`.
    status: str
    jobs: tuple[Job, ...]
    error: Problem | None
    succeeded: bool

    @property
    def texts(self) -> tuple[str | None, ...]:
        """The answer to each page; None where it has none."""
        return tuple(job.result.text if job.result else None for job in self.jobs)

    def as_dict(self) -> dict[str, Any]:
        """A line of JSON: `file`, `sha256`, `id`, `status`, `error`, and `pages`, each a job with its own."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "id": self.id,
            "status": self.status,
            "error": self._error_of_all(),
            "pages": [_show_page(job) for job in self.jobs],
        }

    def _error_of_all(self) -> dict[str, Any] | None:
        if self.error is not None:
            return self.error.as_dict()
        if self.succeeded:
            return None
        bad = sum(not job.succeeded for job in self.jobs)
        return {"message": f"{bad} of {len(self.jobs)} pages have no answer.", "code": "failed"}


def _show_page(job: Job) -> dict[str, Any]:
    return {
        "page": job.page or 1,
        "id": job.id,
        "status": job.status,
        "text": job.result.text if job.result else None,
        "finish_reason": job.result.finish_reason if job.result else None,
        "usage": job.usage,
        "error": job.error.as_dict() if job.error else None,
    }


class Flow:
    """The run. It is the generator of `run` that does everything; threads only upload."""

    def __init__(
        self,
        items: Sequence[Item],
        submit: Callable[[Part, str], Job | Document],
        sweep: Sweep,
        journal: Journal,
        *,
        in_flight: int,
        ordered: bool,
        retry_failed: bool,
        stop: Callable[[], None],
        tell: Callable[[int, int, int], None],
    ) -> None:
        """`submit` takes a part and an idempotency key; `stop` ends the pauses of what is being submitted; `tell` hears
        how many are done, not answered, and in flight."""
        self._items, self._submit, self._sweep, self._journal = iter(items), submit, sweep, journal
        self._most, self._ordered, self._retry_failed = in_flight, ordered, retry_failed
        self._stop, self._tell = stop, tell
        self._submitting: dict[Future[_Sent], Item] = {}
        self._flying: dict[str, _Sent] = {}
        #: Outcomes that wait for their turn; None for what an earlier run has told of.
        self._early: dict[int, Outcome | None] = {}
        self._next = self._done = self._bad = 0
        self._pause_s = _FIRST_S

    def run(self) -> Iterator[Outcome]:
        """Outcomes, as they come or in the order of the files. Raises what concerns all files alike."""
        with ThreadPoolExecutor(_SUBMITTERS, thread_name_prefix="submit") as pool:
            try:
                while self._fill(pool):
                    for outcome in self._turn([*self._collect(), *self._look()]):
                        yield outcome
                        self._journal.note_told(
                            outcome.file, outcome.sha256 or "", outcome.status, good=outcome.succeeded
                        )
                    self._tell(self._done, self._bad, len(self._flying))
            finally:
                self._stop()
                pool.shutdown(cancel_futures=True)

    def _fill(self, pool: ThreadPoolExecutor) -> bool:
        """Submit while there is room; says whether anything is under way."""
        while len(self._submitting) + len(self._flying) + len(self._early) < self._most:
            item = next(self._items, None)
            if item is None:
                break
            self._submitting[pool.submit(self._send, item)] = item
        return bool(self._submitting or self._flying)

    def _send(self, item: Item) -> _Sent:
        """In a thread: one file, unless an earlier run did it."""
        try:
            data = item.path.read_bytes()
        except OSError as error:
            reason = Problem(message=f"The file cannot be read: {error.strerror}.", code="storage_error")
            return _Sent(item, None, None, reason)
        sha256 = hashlib.sha256(data).hexdigest()
        known = self._journal.find(item.name, sha256)
        if known.status is not None and (known.good or not self._retry_failed):
            return _Sent(item, sha256, None, None, known_good=known.good)
        if known.id is not None and known.status is None:
            return _Sent(item, sha256, known.id, None)
        try:
            made = self._submit((item.path.name, data), self._journal.make_key(item.name, sha256))
        except BatchinferError as error:
            if concerns_all(error):
                raise
            return _Sent(item, sha256, None, Problem.model_validate(error.as_dict()))
        self._journal.note_submitted(item.name, sha256, made.id)
        return _Sent(item, sha256, made.id, None)

    def _collect(self) -> Iterator[tuple[int, Outcome | None]]:
        """What the threads have done since: refused and known files at once, the others are in flight now."""
        if not self._submitting:
            return
        done, _ = wait(self._submitting, None if not self._flying else 0, FIRST_COMPLETED)
        for future in done:
            item = self._submitting.pop(future)
            sent = future.result()
            if sent.id is not None:
                self._flying[sent.id] = sent
            elif sent.problem is not None:
                yield item.index, sent.end(REFUSED, (), sent.problem)
            else:
                self._count(good=sent.known_good)
                yield item.index, None

    def _look(self) -> Iterator[tuple[int, Outcome | None]]:
        """What of that in flight has ended; after a pause where nothing has."""
        if not self._flying:
            return
        began_s = time.monotonic()
        ended = self._sweep.find_ended(self._flying)
        for thing_id, (status, jobs, problem) in ended.items():
            sent = self._flying.pop(thing_id)
            yield sent.item.index, sent.end(status, jobs, problem)
        if ended:
            self._pause_s = _FIRST_S
        elif self._flying:
            # A look costs the service something: it is asked a fifth of the time at most.
            took_s = time.monotonic() - began_s
            self._sweep.pause(self._flying, max(self._pause_s, 4 * took_s))
            self._pause_s = min(self._pause_s * _GROWTH, _LONGEST_S)

    def _turn(self, found: Sequence[tuple[int, Outcome | None]]) -> Iterator[Outcome]:
        """What may be told of now."""
        for index, outcome in found:
            self._early[index] = outcome
            if outcome is not None:
                self._count(good=outcome.succeeded)
        ready = list(self._early) if not self._ordered else []
        while self._ordered and self._next in self._early:
            ready.append(self._next)
            self._next += 1
        for index in ready:
            outcome = self._early.pop(index)
            if outcome is not None:
                yield outcome

    def _count(self, *, good: bool) -> None:
        self._done += 1
        self._bad += not good


@dataclass(frozen=True)
class _Sent:
    """A file that a thread has dealt with: it has an id, or a problem, or an earlier run told of it."""

    item: Item
    sha256: str | None
    id: str | None
    problem: Problem | None
    known_good: bool = False

    def end(self, status: str, jobs: tuple[Job, ...], problem: Problem | None) -> Outcome:
        good = problem is None and bool(jobs) and all(job.succeeded for job in jobs)
        return Outcome(self.item.index, self.item.name, self.sha256, self.id, status, jobs, problem, good)


def concerns_all(error: BatchinferError) -> bool:
    """Whether every other file would meet the same: no key, no service, or an option that is wrong."""
    if isinstance(error, _FOR_ALL):
        return True
    return isinstance(error, BadRequest) and error.param is not None and not error.param.startswith("file")
