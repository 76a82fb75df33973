"""The ledger: every page that was submitted has ended exactly once, with what belongs to its end. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchinfer.domain.documents import TERMINAL as ENDED_DOCUMENTS
from batchinfer.domain.jobs import TERMINAL, JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchinfer.demo.files import File

Json = dict[str, Any]


@dataclass(frozen=True)
class Submission:
    """A file and what the service answered to it: a job or a document."""

    file: File
    receipt: Json

    @property
    def id(self) -> str:
        """The id of the job or document."""
        return str(self.receipt["id"])

    @property
    def is_document(self) -> bool:
        """Whether its pages are jobs of their own."""
        return bool(self.receipt["object"] == "document")


@dataclass(frozen=True)
class PageRow:
    """One page as it ended. `truth` is None where nobody knows it."""

    name: str
    page: int
    job: Json
    truth: dict[str, str] | None
    scanned: bool


@dataclass
class Ledger:
    """The count. `lost`, `twice` and `unsound` name pages, for example `007-invoice.pdf page 2`."""

    files: int = 0
    pages: int = 0
    answered: int = 0
    #: Pages that ended with an error, which the job names, as a broken picture does.
    failed: int = 0
    #: No job, or one that has not ended.
    lost: list[str] = field(default_factory=list)
    #: More than one job for one page, or one job for two pages.
    twice: list[str] = field(default_factory=list)
    #: A success without a result, or an end that has both a result and an error, or neither.
    unsound: list[str] = field(default_factory=list)
    rows: list[PageRow] = field(default_factory=list)
    #: Files that could not be opened, with the message.
    unread: list[tuple[str, str]] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every page ended exactly once."""
        return not (self.lost or self.twice or self.unsound)


def count(submissions: Sequence[Submission], documents: dict[str, Json], jobs: Iterable[Json]) -> Ledger:
    """Put the submissions beside what the service says of its documents (by id) and of all its jobs."""
    ledger = Ledger(files=len(submissions))
    by_id: dict[str, Json] = {}
    pages: dict[str, list[Json]] = {}
    for job in jobs:
        if job["id"] in by_id:
            ledger.twice.append(f"job {job['id']} in the list")
        by_id[job["id"]] = job
        if job["document_id"]:
            pages.setdefault(job["document_id"], []).append(job)
    for submission in submissions:
        if submission.is_document:
            document = documents.get(submission.id, {})
            _count_document(ledger, submission, document, pages.get(submission.id, []))
        else:
            found = by_id.get(submission.id)
            _count_page(ledger, submission, 1, [found] if found else [])
    repeated = Counter(submission.id for submission in submissions)
    ledger.twice += [f"id {id_} for {times} files" for id_, times in repeated.items() if times > 1]
    return ledger


def has_ended(submissions: Sequence[Submission], documents: dict[str, Json], jobs: Iterable[Json]) -> bool:
    """Whether nothing of all this will change any more."""
    states = {job["id"]: job["status"] for job in jobs}
    return all(
        documents.get(one.id, {}).get("status") in ENDED_DOCUMENTS
        if one.is_document
        else states.get(one.id) in TERMINAL
        for one in submissions
    )


def count_given_back(jobs: Iterable[Json]) -> int:
    """Jobs under which a worker was lost: they were given back and are, or were, done by another."""
    return sum(job["crashes"] > 0 for job in jobs)


def _count_document(ledger: Ledger, submission: Submission, document: Json, jobs: list[Json]) -> None:
    name = submission.file.path.name
    error = document.get("error")
    if error and not jobs:
        ledger.unread.append((name, str(error["message"])))
        return
    expected = submission.file.pages or document.get("pages") or 0
    if not expected:
        ledger.lost.append(name)
    for page in range(1, expected + 1):
        _count_page(ledger, submission, page, [job for job in jobs if job["page"] == page])
    ledger.twice += [f"{name} page {job['page']}" for job in jobs if not 1 <= (job["page"] or 0) <= expected]


def _count_page(ledger: Ledger, submission: Submission, page: int, jobs: list[Json]) -> None:
    file = submission.file
    label = f"{file.path.name} page {page}"
    ledger.pages += 1
    if not jobs or any(job["status"] not in TERMINAL for job in jobs):
        ledger.lost.append(label)
        return
    if len(jobs) > 1:
        ledger.twice.append(label)
        return
    job = jobs[0]
    succeeded = job["status"] == JobState.SUCCEEDED
    if succeeded != (job["result"] is not None) or succeeded != (job["error"] is None):
        ledger.unsound.append(label)
    ledger.answered += succeeded
    ledger.failed += not succeeded
    truth = file.truth[page - 1] if file.truth else None
    ledger.rows.append(PageRow(file.path.name, page, job, truth, file.scanned))
