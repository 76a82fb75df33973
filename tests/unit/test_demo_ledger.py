from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchinfer.demo.files import File
from batchinfer.demo.ledger import Submission, count, count_given_back, has_ended

TRUTH = ({"type": "invoice"}, {"type": "quote"})
RESULT = {"text": "{}", "finish_reason": "stop"}
ERROR = {"message": "The page is broken.", "code": "document_parse_error"}


def make_job(job_id: str, *, document: str | None = None, page: int | None = None, **changes: Any) -> dict[str, Any]:
    job = {"id": job_id, "document_id": document, "page": page, "status": "succeeded", "crashes": 0}
    return {**job, "result": RESULT, "error": None, **changes}


@pytest.fixture
def submissions() -> list[Submission]:
    picture = File(Path("a.png"), "image/png", TRUTH[:1])
    document = File(Path("b.pdf"), "application/pdf", TRUTH)
    return [
        Submission(picture, {"object": "job", "id": "job_1"}),
        Submission(document, {"object": "document", "id": "doc_1"}),
    ]


@pytest.fixture
def documents() -> dict[str, dict[str, Any]]:
    return {"doc_1": {"id": "doc_1", "status": "completed", "pages": 2, "error": None}}


@pytest.fixture
def jobs() -> list[dict[str, Any]]:
    return [
        make_job("job_1"),
        make_job("job_2", document="doc_1", page=1),
        make_job("job_3", document="doc_1", page=2),
    ]


def test_each_page_once_is_clean(submissions, documents, jobs) -> None:
    ledger = count(submissions, documents, jobs)
    assert ledger.clean
    assert (ledger.files, ledger.pages, ledger.answered, ledger.failed) == (2, 3, 3, 0)
    assert [(row.name, row.page) for row in ledger.rows] == [("a.png", 1), ("b.pdf", 1), ("b.pdf", 2)]
    assert ledger.rows[2].truth == {"type": "quote"}


@pytest.mark.parametrize("gone", [0, 2])
def test_a_page_without_a_job_is_lost(submissions, documents, jobs, gone: int) -> None:
    del jobs[gone]
    ledger = count(submissions, documents, jobs)
    assert not ledger.clean
    assert ledger.lost == [["a.png page 1", None, "b.pdf page 2"][gone]]


def test_the_pages_that_were_drawn_count_not_those_that_were_found(submissions, documents, jobs) -> None:
    documents["doc_1"]["pages"] = 1
    assert count(submissions, documents, jobs[:2]).lost == ["b.pdf page 2"]


def test_a_job_that_has_not_ended_is_lost(submissions, documents, jobs) -> None:
    jobs[1] = make_job("job_2", document="doc_1", page=1, status="running", result=None)
    assert count(submissions, documents, jobs).lost == ["b.pdf page 1"]


def test_two_jobs_for_a_page(submissions, documents, jobs) -> None:
    jobs.append(make_job("job_4", document="doc_1", page=2))
    ledger = count(submissions, documents, jobs)
    assert ledger.twice == ["b.pdf page 2"]
    assert not ledger.clean


def test_a_page_that_the_file_does_not_have(submissions, documents, jobs) -> None:
    jobs.append(make_job("job_4", document="doc_1", page=3))
    assert count(submissions, documents, jobs).twice == ["b.pdf page 3"]


def test_a_job_listed_twice_and_an_id_given_twice(submissions, documents, jobs) -> None:
    assert not count(submissions, documents, [*jobs, jobs[0]]).clean
    assert not count([*submissions, submissions[0]], documents, jobs).clean


@pytest.mark.parametrize(
    "changes",
    [{"result": None}, {"error": ERROR}, {"status": "failed"}, {"status": "cancelled", "result": None}],
)
def test_an_end_has_what_belongs_to_it(submissions, documents, jobs, changes: dict[str, Any]) -> None:
    jobs[0] = make_job("job_1", **changes)
    assert count(submissions, documents, jobs).unsound == ["a.png page 1"]


def test_a_failure_with_its_error_is_counted_and_clean(submissions, documents, jobs) -> None:
    jobs[0] = make_job("job_1", status="failed", result=None, error=ERROR)
    ledger = count(submissions, documents, jobs)
    assert ledger.clean
    assert (ledger.answered, ledger.failed) == (2, 1)


def test_a_file_that_could_not_be_opened_says_why(submissions, documents, jobs) -> None:
    documents["doc_1"] |= {"status": "failed", "pages": None, "error": ERROR}
    ledger = count(submissions, documents, jobs[:1])
    assert ledger.unread == [("b.pdf", "The page is broken.")]
    assert (ledger.pages, ledger.failed) == (1, 0)
    assert ledger.clean


def test_pages_nobody_knew_before_are_taken_from_the_document(documents, jobs) -> None:
    own = Submission(File(Path("own.pdf"), "application/pdf"), {"object": "document", "id": "doc_1"})
    assert count([own], documents, jobs[1:]).clean
    assert count([own], documents, jobs[1:2]).lost == ["own.pdf page 2"]
    assert count([own], {}, []).lost == ["own.pdf"]


def test_the_end_is_when_nothing_changes_any_more(submissions, documents, jobs) -> None:
    assert has_ended(submissions, documents, jobs)
    assert not has_ended(submissions, {}, jobs)
    jobs[0]["status"] = "preparing"
    assert not has_ended(submissions, documents, jobs)


def test_given_back_are_the_jobs_under_which_a_worker_died(jobs) -> None:
    assert count_given_back(jobs) == 0
    jobs[0]["crashes"], jobs[2]["crashes"] = 1, 2
    assert count_given_back(jobs) == 2
