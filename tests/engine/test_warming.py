"""Weights are read into the page cache, and how much of them is there is known."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from workers.engine import residency, warming
from workers.engine.residency import count_resident, measure_resident
from workers.engine.warming import PIECE, Warming, main, warm

DOCREADER = Path(__file__).resolve().parents[2] / "workers" / "models" / "docreader"
PAGE = os.sysconf("SC_PAGE_SIZE")


def evict(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files of odd lengths, together of more than two pieces, none of them in the page cache."""
    made = [tmp_path / "one", tmp_path / "two"]
    made[0].write_bytes(os.urandom(2**20) * 9 + b"odd")
    made[1].write_bytes(os.urandom(3 * PAGE + 17))
    evict(made)
    if measure_resident(made) != 0.0:
        pytest.skip("This file system or kernel does not drop files from the page cache.")
    return made


def test_what_was_dropped_is_read_again(files: list[Path]) -> None:
    done = warm(files, threads=3)
    assert done.total_bytes == done.read_bytes == sum(path.stat().st_size for path in files) > 2 * PIECE
    assert (done.resident_before, done.resident_after, done.note) == (0.0, 1.0, None)
    assert done.mib_per_s > 0
    assert measure_resident(files) == 1.0


def test_what_is_there_is_left_alone(files: list[Path]) -> None:
    files[0].read_bytes()
    done = warm(files)
    assert done.read_bytes == files[1].stat().st_size
    assert warm(files).read_bytes == 0


def test_what_would_not_fit_is_not_read(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "find_room", lambda: 2**20)
    done = warm(files)
    assert (done.read_bytes, done.resident_after) == (0, 0.0)
    assert done.note == "9 MiB would not fit into the 1 MiB of memory that may be used for it"


def test_room_is_less_than_the_memory_and_heeds_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = warming.find_room()
    assert room is not None
    assert 0 < room < os.sysconf("SC_PHYS_PAGES") * PAGE
    (tmp_path / "limit").write_text("1000000\n")
    monkeypatch.setattr(warming, "_CGROUP", tmp_path / "limit")
    assert warming.find_room() == 800_000
    monkeypatch.setattr(warming, "_MEMINFO", tmp_path / "nowhere")
    assert warming.find_room() is None


def test_both_ways_of_asking_agree(files: list[Path]) -> None:
    with files[0].open("rb") as stream:
        size = files[0].stat().st_size
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(stream.fileno(), 10, PAGE)
        by_mincore = residency._ask_mincore(stream.fileno(), 0, size)
        by_cachestat = residency._ask_cachestat(stream.fileno(), 0, size)
        assert by_mincore is not None
        assert 1 <= by_mincore < size // PAGE
        assert by_cachestat in (None, by_mincore)
        assert count_resident(stream.fileno(), 0, size) == by_mincore * PAGE
        assert count_resident(stream.fileno(), 0, 0) == 0


def test_where_the_kernel_does_not_say_everything_is_read(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "_load_libc", lambda: None)
    done = warm(files)
    assert (done.resident_before, done.resident_after) == (None, None)
    assert done.read_bytes == done.total_bytes


def test_a_warming_ends_whatever_happens(files: list[Path], tmp_path: Path) -> None:
    assert Warming(files).wait().resident_after == 1.0
    lost = Warming([tmp_path / "nowhere"])
    assert lost.wait().note == "reading ended early (FileNotFoundError)"
    lost.stop()


def test_a_warming_that_is_stopped_reads_no_further(files: list[Path]) -> None:
    stopping = threading.Event()
    stopping.set()
    done = warm(files, stopping=stopping)
    assert (done.read_bytes, done.note) == (0, "stopped before the end")


def test_the_command_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DOCREADER)]) == 0
    said, data = capsys.readouterr().out.splitlines()
    assert said.startswith("docreader: ")
    assert json.loads(data)["total_bytes"] == (DOCREADER / "model.safetensors").stat().st_size
    assert main([str(DOCREADER), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["note"] is None


def test_the_command_ends_with_1_for_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "no config.json" in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]


def test_what_does_not_fit_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    none_there: Any = lambda _: 0.0  # noqa: E731
    monkeypatch.setattr(warming, "find_room", lambda: 0)
    monkeypatch.setattr(warming, "measure_resident", none_there)
    assert main([str(DOCREADER)]) == 1
    assert "would not fit" in capsys.readouterr().out
