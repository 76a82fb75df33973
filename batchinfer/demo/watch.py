"""Follow the pages until the last has ended, and kill the model worker half way."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from batchinfer.client.progress import Meter
from batchinfer.demo.ledger import Json, Submission, count_given_back, has_ended
from batchinfer.domain.documents import TERMINAL as ENDED_DOCUMENTS
from batchinfer.domain.jobs import TERMINAL, JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchinfer.client import Client

_POLL_S = 0.4
_DOCUMENTS_S = 2.0
#: No page ended for so long: something is wrong, and the ledger will say what is missing.
PATIENCE_S = 180.0


@dataclass
class Progress:
    """How it stands now."""

    total: int = 0
    done: int = 0
    running: int = 0
    #: Mean rows that shared a step of the engine; None before the first page.
    rows_per_step: float | None = None
    #: Lately.
    pages_per_s: float = 0.0
    #: At the mean rate since the start; None while that says little.
    left_s: float | None = None


class Display(Protocol):
    """Where progress is shown."""

    def update(self, progress: Progress) -> None: ...

    def say(self, line: str) -> None: ...


@dataclass
class Killing:
    """The one kill of a run: when, whom, and what was given back."""

    #: The model workers that run just now.
    find_pids: Callable[[], list[int]]
    display: Display
    pid: int | None = None
    told: bool = False

    def look(self, progress: Progress, jobs: Sequence[Json]) -> None:
        """Kill when half is done, or when a worker holds all that is left; later say what was given back."""
        if self.pid is None:
            half = progress.done * 2 >= progress.total or progress.done + progress.running >= progress.total
            if half and progress.running and progress.done < progress.total:
                self._kill(progress)
        elif not self.told and self.pid not in self.find_pids():
            self._tell(count_given_back(jobs))

    def finish(self, jobs: Sequence[Json]) -> None:
        """After the last page: say it now if it was not said."""
        if self.pid is not None and not self.told:
            self._tell(count_given_back(jobs), at_end=True)

    def _kill(self, progress: Progress) -> None:
        for pid in self.find_pids()[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.pid = pid
                done = f"{progress.done} of {progress.total} pages"
                self.display.say(f"Killed the model worker (process {pid}) with -9 after {done}.")

    def _tell(self, given_back: int, *, at_end: bool = False) -> None:
        if given_back or at_end:
            self.told = True
            jobs = "1 job was" if given_back == 1 else f"{given_back} jobs were"
            self.display.say(f"{jobs} in its hands: given back, for the worker that takes its place.")


@dataclass
class Watch:
    """What the service says of the submissions, looked at again and again."""

    client: Client
    submissions: Sequence[Submission]
    display: Display
    killing: Killing | None = None
    documents: dict[str, Json] = field(default_factory=dict)
    jobs: list[Json] = field(default_factory=list)
    _looked_at_s: float = float("-inf")
    _meter: Meter = field(default_factory=Meter)

    def run(self) -> bool:
        """Go on when everything has ended, or nothing has for `PATIENCE_S`; says whether everything has."""
        moved_at_s, done = time.monotonic(), 0
        while True:
            began_s = time.monotonic()
            progress = self._look()
            if progress.done != done:
                moved_at_s, done = began_s, progress.done
            ended = has_ended(self.submissions, self.documents, self.jobs)
            if ended or began_s - moved_at_s > PATIENCE_S:
                # Documents were looked at after the jobs: pages may have been made, and have ended, in between.
                self.jobs = self._list_jobs()
                if self.killing:
                    self.killing.finish(self.jobs)
                return ended
            if self.killing:
                self.killing.look(progress, self.jobs)
            # A list of many pages costs the service something: it is asked a fifth of the time at most.
            time.sleep(max(_POLL_S, 4 * (time.monotonic() - began_s)))

    def _look(self) -> Progress:
        self.jobs = self._list_jobs()
        progress = self._measure()
        if progress.done >= progress.total or time.monotonic() - self._looked_at_s >= _DOCUMENTS_S:
            self._look_at_documents()
            progress = self._measure()
        self.display.update(progress)
        return progress

    def _list_jobs(self) -> list[Json]:
        return self._own([job.as_dict() for job in self.client.jobs.list()])

    def _own(self, jobs: list[Json]) -> list[Json]:
        """On servers that hold other work too, only what this run submitted."""
        own = {submission.id for submission in self.submissions}
        return [job for job in jobs if job["id"] in own or job["document_id"] in own]

    def _look_at_documents(self) -> None:
        self._looked_at_s = time.monotonic()
        for submission in self.submissions:
            before = self.documents.get(submission.id, {})
            if submission.is_document and before.get("status") not in ENDED_DOCUMENTS:
                self.documents[submission.id] = self.client.documents.get(submission.id).as_dict()

    def _measure(self) -> Progress:
        done = [job for job in self.jobs if job["status"] in TERMINAL]
        total = max(sum(self._count_pages(submission) for submission in self.submissions), len(self.jobs))
        rows = [job["timings"]["rows"] for job in done if "rows" in (job["timings"] or {})]
        self._meter.note(len(done))
        return Progress(
            total=total,
            done=len(done),
            running=sum(job["status"] == JobState.RUNNING for job in self.jobs),
            rows_per_step=sum(rows) / len(rows) if rows else None,
            pages_per_s=self._meter.rate,
            left_s=self._meter.left_s(total),
        )

    def _count_pages(self, submission: Submission) -> int:
        if submission.file.pages is not None:
            return submission.file.pages
        document = self.documents.get(submission.id, {})
        if document.get("status") in ENDED_DOCUMENTS and not document.get("jobs"):
            return 0
        return document.get("pages") or 1
