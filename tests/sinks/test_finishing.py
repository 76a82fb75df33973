"""A run ends once all of it is written: the last shards, unchanged documents, the report, and the manifest last."""

from __future__ import annotations

import errno
import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from batchinfer.domain.batches import BatchState
from batchinfer.domain.retries import RetryClass
from batchinfer.domain.runs import RunState
from batchinfer.errors import FetchFailed, Unavailable
from batchinfer.media import sinks as media
from batchinfer.services import exporting, reviewing, sealing, userfiles
from batchinfer.store.claims import EXPORT

if TYPE_CHECKING:
    from pathlib import Path


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_run_ends_with_its_last_shard_report_and_manifest(make_night, out):
    night = make_night({"type": "jsonl", "uri": str(out)}, {"type": "csv", "uri": f"{out}/tables"})
    (out / "tables").mkdir()
    for number in range(3):
        night.close(f"{number}.pdf", ("ok", "x"), ("failed", "invalid_output"))
    night.end()
    assert night.run.state is RunState.FINALIZING
    run = night.finish()
    assert (run.state, run.batch.status) == (RunState.COMPLETED_WITH_ERRORS, BatchState.COMPLETED)
    assert [(row.first, row.last) for row in night.shards()] == [(1, 2), (3, 3)]
    folder = out / night.shown_id
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["run_id"], manifest["state"]) == (night.shown_id, "completed_with_errors")
    assert manifest["documents"]["completed_with_errors"] == 3
    assert (manifest["pages"]["ok"], manifest["pages"]["failed"]) == (3, 3)
    assert manifest["spec"]["resolved"]["revision"] == "r1"
    by_name = {(file.get("sink"), file["name"]): file for file in manifest["files"]}
    assert len(by_name) == 4 + 2
    for (sink, name), file in by_name.items():
        raw = ((out / "tables" / night.shown_id if sink == 1 else folder) / name).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert (out / "tables" / night.shown_id / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
    assert set(run.files) == {"report.json", "report.html", "manifest.json"}
    assert not list(out.rglob(".unfinished"))
    assert list(night.scratch.iterdir()) == []


def test_unchanged_documents_are_written_with_their_earlier_pages(make_night, out):
    first = make_night({"type": "jsonl", "uri": str(out)})
    one = first.close("one.pdf", ("ok", "first"), ("blank", ""))
    two = first.close("two.pdf", ("ok", "second"))
    night = make_night({"type": "jsonl", "uri": str(out)})
    for name, same in (("one.pdf", one), ("two.pdf", two), ("three.pdf", one)):
        night.skip(name, same)
    night.close("new.pdf", ("ok", "new"))
    night.end()
    run = night.finish()
    assert run.state is RunState.COMPLETED
    assert [(row.first, row.last) for row in night.shards()] == [(1, 1), (2, 3), (4, 4)]
    folder = out / night.shown_id
    lines = [line for number in (1, 2, 3) for line in read_lines(folder / f"pages-0000{number}.jsonl")]
    assert [(line["document"]["name"], line["text"], line["outcome"]) for line in lines] == [
        ("new.pdf", "new", "ok"),
        ("one.pdf", "first", "ok"),
        ("one.pdf", "", "blank"),
        ("two.pdf", "second", "ok"),
        ("three.pdf", "first", "ok"),
        ("three.pdf", "", "blank"),
    ]
    assert lines[0]["document"]["unchanged_since"] is None
    assert lines[1]["document"]["unchanged_since"].removeprefix("doc_") == one.hex
    assert all(line["document"]["sha256"] for line in lines)
    report = json.loads((folder / "report.json").read_text())
    assert (report["documents"]["unchanged"], report["documents"]["completed"]) == (3, 1)


def test_the_file_of_the_batch_is_its_shards_put_together(make_night):
    night = make_night({"type": "jsonl"})
    for number in range(5):
        night.close(f"{number}.pdf", ("ok", str(number)))
    night.end()
    run = night.finish()
    _, pieces = userfiles.open_file(night.ctx, night.caller, run.batch.output_file_id)
    assert [json.loads(line)["text"] for line in b"".join(pieces).splitlines()] == [str(n) for n in range(5)]


def test_an_empty_run_ends_too(make_night, out):
    night = make_night({"type": "jsonl", "uri": str(out)}, {"type": "parquet", "uri": str(out)})
    night.end()
    assert night.finish().state is RunState.COMPLETED
    manifest = json.loads((out / night.shown_id / "manifest.json").read_text())
    assert [file["name"] for file in manifest["files"]] == ["report.json", "report.html"]


def test_a_cancelled_run_keeps_what_it_has(make_night, out):
    night = make_night({"type": "jsonl", "uri": str(out)})
    night.close("one.pdf", ("ok", "1"))
    night.execute("UPDATE batches SET status = 'cancelling', cancelling_at = now()")
    night.end()
    assert night.finish().state is RunState.CANCELLED
    assert json.loads((out / night.shown_id / "manifest.json").read_text())["state"] == "cancelled"
    assert len(read_lines(out / night.shown_id / "pages-00001.jsonl")) == 1


def test_documents_that_were_never_read_make_a_run_expired(make_night):
    night = make_night({"type": "jsonl"})
    night.close("one.pdf", ("ok", "1"))
    night.close("two.pdf", outcome="expired", error={"code": "expired", "message": "Too late."})
    night.end()
    assert night.finish().state is RunState.EXPIRED


def test_a_worker_lost_before_the_commit_is_followed_by_another(make_night, out):
    night = make_night({"type": "jsonl", "uri": str(out)})
    night.close("one.pdf", ("ok", "1"))
    night.end()
    (claim,) = night.take(EXPORT)
    assert exporting.export_batch(night.ctx, claim, night.scratch, lambda action: action(), lambda: True)
    night.seal()
    (claim,) = night.take(EXPORT)

    def lost(_action):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exporting.export_batch(night.ctx, claim, night.scratch, lost, lambda: True)
    assert night.run.finished_at is None
    night.execute("UPDATE queue SET state = 'queued', lease_id = NULL WHERE id = :id", id=claim.id)
    assert night.finish().state is RunState.COMPLETED
    assert len(night.execute("SELECT * FROM reviews")) == 1


def test_the_row_waits_for_shards_and_is_woken_by_the_last(make_night):
    night = make_night({"type": "jsonl"})
    night.close("one.pdf", ("ok", "1"))
    night.end()
    (claim,) = night.take(EXPORT)
    assert exporting.export_batch(night.ctx, claim, night.scratch, lambda action: action(), lambda: True)
    (waits,) = night.execute("SELECT available_at > now() + interval '5 seconds' AS later FROM queue WHERE id = :id",
                             id=night.run_id)  # fmt: skip
    assert waits.later
    night.seal(claims=[one for one in night.take() if one.subject_id != night.run_id])
    (waits,) = night.execute("SELECT available_at <= now() AS due FROM queue WHERE id = :id", id=night.run_id)
    assert waits.due


def refuse_all(monkeypatch, number=errno.EACCES):
    def refuse(*_):
        raise OSError(number, "no")

    monkeypatch.setattr(media.shutil, "copyfileobj", refuse)


def test_a_sink_that_stays_closed_fails_the_run_and_it_can_be_sealed_again(make_night, out, monkeypatch):
    night = make_night({"type": "jsonl", "uri": str(out)})
    for number in range(3):
        night.close(f"{number}.pdf", ("ok", str(number)))
    night.end()
    with monkeypatch.context() as patch:
        refuse_all(patch)
        for _ in range(2):
            for claim in night.take(EXPORT):
                assert exporting.export_batch(night.ctx, claim, night.scratch, lambda action: action(), lambda: True)
            for claim in night.take():
                with pytest.raises(FetchFailed) as raised:
                    sealing.seal_shard(night.ctx, claim, night.scratch, lambda action: action(), lambda: True)
                night.fail(claim, raised.value, RetryClass.PERMANENT)
    run = night.run
    assert run.state is RunState.FAILED
    assert (run.cause["code"], run.cause["reason"]["code"]) == ("sink_failed", "sink_refused")
    assert "2 shards" in run.cause["message"]
    assert list(out.iterdir()) == [out / night.shown_id]
    again = reviewing.seal_run(night.ctx, night.caller, night.run_id)
    assert (again.state, again.cause, again.finished_at) == (RunState.FINALIZING, None, None)
    assert night.finish().state is RunState.COMPLETED
    assert (out / night.shown_id / "manifest.json").exists()
    assert reviewing.seal_run(night.ctx, night.caller, night.run_id).state is RunState.COMPLETED


def test_a_manifest_that_cannot_be_written_is_tried_again_and_then_told(make_night, out, monkeypatch):
    night = make_night({"type": "jsonl", "uri": str(out)})
    night.close("one.pdf", ("ok", "1"))
    night.end()
    (claim,) = night.take(EXPORT)
    assert exporting.export_batch(night.ctx, claim, night.scratch, lambda action: action(), lambda: True)
    night.seal()
    (claim,) = night.take(EXPORT)
    with monkeypatch.context() as patch:
        refuse_all(patch, errno.ENOSPC)
        with pytest.raises(Unavailable) as raised:
            exporting.export_batch(night.ctx, claim, night.scratch, lambda action: action(), lambda: True)
    night.fail(claim, raised.value, RetryClass.PERMANENT)
    run = night.run
    assert (run.state, run.cause["code"], run.finished_at is not None) == (RunState.FAILED, "sink_full", True)
    assert reviewing.seal_run(night.ctx, night.caller, night.run_id).state is RunState.FINALIZING
    assert night.finish().state is RunState.COMPLETED
