"""What the client keeps on disk: JSONL files that are only added to, and the journal of a run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.client import Outcome, to_dataframe, write_jsonl
from batchinfer.client.journal import Journal
from batchinfer.client.lines import Lines
from batchinfer.client.nouns import Job, Problem
from batchinfer.client.progress import Meter, describe, show_duration
from batchinfer.errors import BadRequest, Conflict, StartError

if TYPE_CHECKING:
    from pathlib import Path

ASKED = {"model": "m", "prompt": "Read."}
RESULT = {"text": "ü", "finish_reason": "stop", "model": "m", "revision": "r", "engine": "e"}


def make_outcome(file: str = "a.png", **more: Any) -> Outcome:
    job = Job.model_validate({"id": "job_1", "status": "succeeded", "model": "m", "created_at": 1, "result": RESULT})
    fields = {"index": 0, "file": file, "sha256": "00", "id": "job_1", "status": "succeeded", "jobs": (job,)}
    return Outcome(**{**fields, "error": None, "succeeded": True, **more})


REFUSED = {"status": "refused", "id": None, "jobs": (), "error": Problem(message="No.", code="x"), "succeeded": False}


def test_a_line_that_was_cut_off_is_dropped_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"a":1}\n{"b":')
    with Lines(path) as lines:
        assert list(lines.read()) == [{"a": 1}]
        lines.add({"c": "ü\n"})
    assert path.read_text(encoding="utf-8") == '{"a":1}\n{"c":"ü\\n"}\n'


@pytest.mark.parametrize("text", ["Dear diary", "1\n", "[1]\n", "Dear\ndiary"])
def test_somebody_elses_file_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "diary"
    path.write_text(text)
    with pytest.raises(BadRequest, match=r"line \d, is no JSON object"), Lines(path) as lines:
        list(lines.read())
    assert path.read_text() == text


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    with Lines(tmp_path / "lines"), pytest.raises(Conflict, match="Another run"):
        Lines(tmp_path / "lines")
    Lines(tmp_path / "lines").close()


def test_a_journal_is_found_again_and_its_keys_are_the_same(tmp_path: Path) -> None:
    first = Journal(tmp_path / "state", ASKED)
    key = first.make_key("a", "00")
    assert first.make_key("b", "00") != key
    first.note_submitted("b", "00", "job_b")
    first.note_submitted("c", "00", "job_c")
    first.note_told("c", "00", "failed", good=False)
    first.close()
    second = Journal(tmp_path / "state", ASKED)
    assert second.make_key("a", "00") == key
    assert (second.find("b", "00").id, second.find("b", "00").status) == ("job_b", None)
    assert (second.find("c", "00").status, second.find("c", "00").good) == ("failed", False)
    assert second.make_key("c", "00") != first.make_key("never", "00")
    assert second.find("b", "01").id is None
    second.close()


def test_a_journal_of_another_request_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "state", ASKED).close()
    with pytest.raises(Conflict, match="another request"):
        Journal(tmp_path / "state", {**ASKED, "prompt": "Count."})
    (tmp_path / "other").write_text('{"some": "log"}\n')
    with pytest.raises(Conflict, match="other is the state of another"):
        Journal(tmp_path / "other", ASKED)


def test_a_file_gets_one_line_and_a_second_only_for_the_better(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    bad, good = make_outcome(**REFUSED), make_outcome()
    assert len(list(write_jsonl([bad, make_outcome("b.png")], path))) == 2
    list(write_jsonl([bad, make_outcome("b.png")], path))
    assert len(path.read_text().splitlines()) == 2
    list(write_jsonl([good, bad], path))
    with Lines(path) as lines:
        told = list(lines.read())
    assert [(line["file"], line["status"]) for line in told] == [
        ("a.png", "refused"),
        ("b.png", "succeeded"),
        ("a.png", "succeeded"),
    ]
    assert told[0]["error"] == {"message": "No.", "code": "x", "type": "server_error", "param": None}
    assert told[1]["pages"][0]["text"] == "ü"


def test_a_dataframe_has_a_row_a_page() -> None:
    pytest.importorskip("pandas")
    frame = to_dataframe([make_outcome(), make_outcome("b.png", **REFUSED)])
    assert list(frame["file"]) == ["a.png", "b.png"]
    assert frame["text"][0] == "ü"
    assert frame["error_code"][1] == "x"
    assert list(to_dataframe([]).columns) == list(frame.columns)


def test_without_pandas_a_dataframe_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(StartError, match="pip install pandas"):
        to_dataframe([])


def test_rate_and_time_left_count_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("batchinfer.client.progress.time.monotonic", lambda: now_s)
    meter = Meter()
    assert (meter.rate, meter.left_s(10)) == (0.0, None)
    meter.note(40)  # of an earlier run
    assert describe(meter, 40, 100, "files") == "40/100 files"
    now_s = 102.0
    meter.note(42)
    assert (meter.rate, meter.left_s(100)) == (1.0, None)
    now_s = 105.0
    meter.note(50)
    assert meter.left_s(100) == 25.0
    assert describe(meter, 50, 100, "files", "", "1 not answered") == (
        "50/100 files  2.0 files/s  25 s left  1 not answered"
    )
    assert describe(meter, 100, 100, "files") == "100/100 files  2.0 files/s"


def test_durations_in_words() -> None:
    assert [show_duration(seconds) for seconds in (0.4, 59.4, 60, 200, 7500)] == [
        "0 s", "59 s", "1 min 00 s", "3 min 20 s", "2 h 05 min",
    ]  # fmt: skip
