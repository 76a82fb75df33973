"""Sources are listed into manifests: nothing twice and nothing missed, whoever is killed on the way."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.batches import BatchState
from batchinfer.domain.runs import RunState
from batchinfer.errors import Failure, FetchFailed
from batchinfer.services import listing, work
from batchinfer.services.work import LIST

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.sources.conftest import Night


def test_a_folder_becomes_numbered_documents_and_the_first_ones_are_queued(night: Night) -> None:
    night.write("b.pdf", "a/2.pdf", "a/1.pdf", "c.txt", ".hidden/x.pdf")
    run_id = night.declare()
    assert night.is_open(run_id) == 1
    assert night.list()
    found = night.documents(run_id)
    assert [(row.number, row.filename) for row in found] == [(1, "a/1.pdf"), (2, "a/2.pdf"), (3, "b.pdf"), (4, "c.txt")]
    assert {row.stage for row in found} == {"queued"}
    assert all(row.uri.startswith("file:///") and row.size_bytes == 8 and row.stamp for row in found)
    assert all(row.expires_at is not None for row in found)
    assert night.kinds() == {"render": 4}
    assert night.is_open(run_id) == 4
    run = night.get(run_id)
    assert (run.counts.documents, run.counts.listed_bytes, run.cause) == (4, 32, None)
    assert run.listed_at is not None


def test_a_run_ends_once_all_its_documents_are_closed(night: Night) -> None:
    night.write(*(f"{i:03}.pdf" for i in range(30)))
    run_id = night.declare()
    night.read_all(run_id, pages=2)
    assert night.is_open(run_id) == 0
    assert night.kinds() == {"export": 1}
    run = night.get(run_id)
    assert run.batch is not None
    assert (run.state, run.batch.counts.total, run.counts.closed) == (RunState.FINALIZING, 60, 30)


def test_globs_and_settle_time_and_limits(night: Night, folder: Path) -> None:
    night.write("in/a.pdf", "in/b.PDF", "in/deep/er/c.pdf", "in/d.pdf", "out/e.pdf", "big.pdf")
    run_id = night.declare(include=["in/**/*.pdf"], exclude=["d.*"])
    night.list()
    assert [row.filename for row in night.documents(run_id)] == ["in/a.pdf", "in/deep/er/c.pdf"]

    os.utime(folder / "big.pdf", (1, 1))
    run_id = night.declare(settle_seconds=600)
    night.list()
    assert [row.filename for row in night.documents(run_id)] == ["big.pdf"]
    assert (night.get(run_id).cause or {})["code"] == "unsettled"

    run_id = night.declare(max_documents=2)
    night.list()
    assert len(night.documents(run_id)) == 2
    assert (night.get(run_id).cause or {})["code"] == "max_documents"


def test_a_document_over_max_bytes_fails_alone(night: Night) -> None:
    night.write("a.pdf", "c.pdf")
    night.write("b.pdf", data=b"x" * 100)
    run_id = night.declare(max_bytes=50)
    night.list()
    rows = night.documents(run_id)
    assert [(row.stage, row.outcome, row.closed_number) for row in rows] == [
        ("queued", None, None), ("closed", "failed", 1), ("queued", None, None),
    ]  # fmt: skip
    assert rows[1].error["code"] == "document_too_large"
    assert night.get(run_id).counts.failed == 1
    assert night.is_open(run_id) == 2
    assert night.sealed == [run_id]


def test_a_run_with_nothing_to_read_ends_and_says_so(night: Night) -> None:
    run_id = night.declare()
    night.list()
    assert night.kinds() == {"export": 1}
    run = night.get(run_id)
    assert (run.counts.documents, (run.cause or {})["code"]) == (0, "no_input")


class Killed(BaseException):
    """A worker that is gone in the middle of it."""


def test_listing_goes_on_where_a_killed_worker_stopped(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{i % 7}/{i:04}.pdf" for i in range(500)]
    night.write(*names)
    monkeypatch.setattr(listing, "FIRST_GROUP", 3)
    monkeypatch.setattr(listing, "GROUP", 40)
    save, calls = listing.save_group, 0

    def save_and_die(*args: Any) -> bool:
        nonlocal calls
        calls += 1
        kept = save(*args)
        if calls in (2, 5, 9):
            raise Killed
        if calls % 4 == 0:  # the answer to a commit was lost: it is done again
            assert save(*args)
        return kept

    monkeypatch.setattr(listing, "save_group", save_and_die)
    run_id = night.declare()
    deaths = 0
    while night.kinds().get("list"):
        try:
            night.list()
        except Killed:
            deaths += 1
            assert night.lease_id is not None
            work.end_lease(night.ctx, night.lease_id, "killed", clean=True)
            night.lease_id = None
    rows = night.documents(run_id)
    assert deaths == 3
    assert [row.number for row in rows] == list(range(1, 501))
    assert sorted(row.filename for row in rows) == sorted(names)
    assert night.is_open(run_id) == 500


def test_a_worker_that_lost_its_lease_writes_nothing(night: Night) -> None:
    night.write("a.pdf")
    run_id = night.declare()
    claim = night.claim(LIST)[0]
    work.end_lease(night.ctx, claim.lease_id, "silent", clean=True)
    assert not night.list(claim)
    assert night.documents(run_id) == []


def test_a_folder_that_vanishes_ends_the_run_with_its_cause(night: Night, folder: Path) -> None:
    run_id = night.declare()
    folder.rmdir()
    with pytest.raises(Failure) as caught:
        night.list()
    assert caught.value.code == "source_not_found"
    run = night.get(run_id)
    assert (run.state, (run.cause or {})["code"]) == (RunState.FAILED, "source_not_found")


def test_a_source_that_does_not_answer_is_tried_again(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    night.write("a.pdf")
    run_id = night.declare()

    def fail(*_: Any) -> None:
        raise FetchFailed("The bucket did not answer.", code="source_unreachable")

    with monkeypatch.context() as patched:
        patched.setattr(listing, "iterate_entries", fail)
        with pytest.raises(FetchFailed):
            night.list()
    assert night.kinds() == {"list": 1}
    run = night.get(run_id)
    assert (run.state, (run.cause or {})["code"]) == (RunState.RUNNING, "source_unreachable")
    night.rows("UPDATE queue SET available_at = now()")
    assert night.list()
    assert night.get(run_id).cause is None


def test_a_long_listing_outlives_many_moments_without_an_answer(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    night.write(*(f"{i:03}.pdf" for i in range(200)))
    monkeypatch.setattr(listing, "FIRST_GROUP", 5)
    monkeypatch.setattr(listing, "GROUP", 10)
    iterate = listing.iterate_entries

    def break_off(*args: Any) -> Any:
        for number, entry in enumerate(iterate(*args)):
            if number == 33:
                raise FetchFailed("The bucket did not answer.", code="source_unreachable")
            yield entry

    monkeypatch.setattr(listing, "iterate_entries", break_off)
    run_id = night.declare()
    assert night.list()
    assert [row.filename for row in night.documents(run_id)] == [f"{i:03}.pdf" for i in range(200)]
    assert night.get(run_id).cause is None


def test_uploaded_files_bring_their_bytes_with_them(night: Night, refused: Callable[..., str]) -> None:
    import io

    from batchinfer.domain.ids import FILE, new_id, show_id
    from batchinfer.domain.userfiles import FileRequest
    from batchinfer.services.userfiles import delete_file, upload_file

    made = [
        upload_file(night.ctx, night.caller, FileRequest("../scan.pdf", "user_data", None), io.BytesIO(data))[0]
        for data in (b"%PDF-1.4 a", b"%PDF-1.4 b", b"%PDF-1.4 c")
    ]
    ids = [show_id(FILE, file.id) for file in made]
    run_id = night.declare(files=ids)
    delete_file(night.ctx, night.caller, made[2].id)
    night.list()
    rows = night.documents(run_id)
    assert [row.uri for row in rows] == ids
    assert [row.blob for row in rows] == [made[0].blob, made[1].blob, None]
    assert len({row.filename for row in rows}) == 3
    assert all("/" not in row.filename for row in rows)
    assert (rows[2].stage, rows[2].error["code"]) == ("closed", "source_not_found")
    assert refused(lambda: night.declare(files=[show_id(FILE, new_id())])) == "file_not_found"


def test_a_cancelled_run_lists_no_more(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    from batchinfer.services import runs

    night.write(*(f"{i}.pdf" for i in range(60)))
    run_id = night.declare()
    monkeypatch.setattr(listing, "GROUP", 10)
    save = listing.save_group

    def save_then_cancel(*args: Any) -> bool:
        kept = save(*args)
        runs.cancel_run(night.ctx, night.caller, run_id)
        return kept

    monkeypatch.setattr(listing, "save_group", save_then_cancel)
    assert not night.list()
    run = night.get(run_id)
    assert run.batch is not None
    assert run.batch.status is BatchState.CANCELLING
    assert run.counts.documents == 20
