"""Logs read back: all processes in the order of time, broken lines and files that are cut meanwhile."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.cli import main
from batchinfer.observe.reading import Follower, Wanted, parse_line, read_records
from batchinfer.stack.rotation import LOGS_KEPT, LogRotation, set_aside

if TYPE_CHECKING:
    from pathlib import Path

JOB = "0192f0c4a2b87d3e9f00112233445566"
TRACE = "0af7651916cd43dd8448eb211c80319c"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def line(second: float, event: str, role: str = "web", level: str = "info", **fields: Any) -> str:
    at = (NOON + timedelta(seconds=second)).isoformat()
    return json.dumps({"event": event, "role": role, "level": level, "timestamp": at, **fields}) + "\n"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Four processes; the web server's log was set aside once."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "web.log.1").write_text(line(0, "answered", job_id=f"job_{JOB}", trace_id=TRACE))
    (folder / "web.log").write_text(line(3, "answered again", trace_id=TRACE) + '{"event": "cut in the mid')
    (folder / "cpu0.log").write_text(
        line(1, "work failed", "cpu", "warning", subject_id="0192f0c4-a2b8-7d3e-9f00-112233445566")
    )
    (folder / "model0.log").write_text("\n\0\n" + line(2, "slow", "model", "debug") + "a library prints\n")
    (folder / "postgres.log").write_bytes(b"2026-01-02 12:00:00 UTC [7] LOG:  \xff ready\n")
    (folder / "notes.txt").write_text("no log\n")
    return folder


def events(folder: Path, **wanted: Any) -> list[str]:
    return [record.event for record in read_records(folder, Wanted(**wanted))]


def test_all_processes_in_the_order_of_time(logs: Path) -> None:
    found = events(logs)
    assert found[0] == "2026-01-02 12:00:00 UTC [7] LOG:  \ufffd ready", "a line without a time of its own comes first"
    assert found[1:] == [
        "answered",
        "work failed",
        "slow",
        "a library prints",
        "answered again",
        '{"event": "cut in the mid',
    ]


def test_what_is_wanted(logs: Path) -> None:
    assert events(logs, job=f"job_{JOB}") == events(logs, job=JOB) == ["answered", "work failed"]
    assert events(logs, trace=TRACE) == ["answered", "answered again"]
    assert events(logs, role="model") == ["slow", "a library prints"]
    assert events(logs, level="warning") == ["work failed"]
    assert events(logs, role="cpu", level="error") == []
    assert events(logs, since=NOON + timedelta(seconds=1.5))[:2] == ["slow", "a library prints"]


@pytest.mark.parametrize("raw", [b"{", b"[1]", b"null", b'"x"', b"{" * 5000, b"\xff\xfe", b'{"timestamp": 7}'])
def test_a_broken_line_is_a_line(raw: bytes) -> None:
    record = parse_line(raw, "cpu1")
    assert record is not None
    assert (record.role, record.at) == ("cpu", None)


def test_following_goes_on_over_a_cut(logs: Path) -> None:
    follower = Follower(logs, Wanted(role="web"))
    assert follower.read_new() == []
    log = logs / "web.log"
    with log.open("a") as file:  # as a process holds it
        file.write('dle"}\n' + line(4, "one") + line(5, "two")[:20])
        file.flush()
        assert [record.event for record in follower.read_new()][-1] == "one"
        file.write(line(5, "two")[20:])
        file.flush()
        assert [record.event for record in follower.read_new()] == ["two"]
        set_aside(log)
        file.write(line(6, "three"))
        file.flush()
        assert [record.event for record in follower.read_new()] == ["three"]
    (logs / "web2.log").write_text(line(7, "a process that came later"))
    assert [record.event for record in follower.read_new()] == ["a process that came later"]
    assert "three" in events(logs)
    assert "two" in events(logs)


def test_logs_are_set_aside_while_they_are_written(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    with log.open("ab", buffering=0) as file:
        for turn in range(6):
            file.write(f"turn {turn}\n".encode() * 10)
            LogRotation(tmp_path, cap_bytes=50).look()
            assert log.stat().st_size == 0
        file.write(b"small\n")
        LogRotation(tmp_path, cap_bytes=50).look()
    assert log.read_bytes() == b"small\n", "what is appended begins at the cut, without a hole before it"
    kept = [tmp_path / f"web.log.{number}" for number in (1, 2, 3)]
    assert [path.read_text()[:6] for path in kept] == ["turn 5", "turn 4", "turn 3"]
    assert len(list(tmp_path.iterdir())) == 1 + LOGS_KEPT
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)


def test_the_command(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(logs.parent)
    with pytest.raises(SystemExit) as ended:
        main(["logs", "--home", home, "--job", f"job_{JOB}", "--json"])
    assert ended.value.code == 0
    assert [json.loads(text)["event"] for text in capsys.readouterr().out.splitlines()] == ["answered", "work failed"]
    with pytest.raises(SystemExit):
        main(["logs", "--home", home, "--process", "cpu"])
    shown = capsys.readouterr().out
    assert "WARNING" in shown
    assert "cpu0" in shown
    assert "work failed" in shown
    for wrong in (["--job", "nonsense"], ["--since", "soon"], ["--process", "nobody"]):
        with pytest.raises(SystemExit) as ended:
            main(["logs", "--home", home, *wrong])
        assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(["logs", "--home", str(logs / "nowhere")])
    assert ended.value.code == 1
