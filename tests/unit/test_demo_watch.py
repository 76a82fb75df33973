from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from batchinfer.demo.ledger import Submission
from batchinfer.demo.watch import Killing, Progress, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

LOST = [{"crashes": 1}, {"crashes": 0}, {"crashes": 1}]


@dataclass
class Lines:
    said: list[str] = field(default_factory=list)

    def update(self, progress: Progress) -> None: ...

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def test_nobody_is_killed_before_half_is_done(victim: subprocess.Popen[bytes]) -> None:
    killing = Killing(lambda: [victim.pid], Lines())
    killing.look(Progress(total=10, done=4, running=3), [])
    assert killing.pid is None
    assert victim.poll() is None


@pytest.mark.parametrize(("done", "running"), [(5, 2), (1, 9)])
def test_the_worker_is_killed_once_half_way_or_at_the_last_chance(
    victim: subprocess.Popen[bytes], done: int, running: int
) -> None:
    lines = Lines()
    killing = Killing(lambda: [victim.pid], lines)
    killing.look(Progress(total=10, done=done, running=running), [])
    assert victim.wait(60) == -9
    assert killing.pid == victim.pid
    assert lines.said == [f"Killed the model worker (process {victim.pid}) with -9 after {done} of 10 pages."]


def test_a_worker_that_holds_nothing_is_left_alone(victim: subprocess.Popen[bytes]) -> None:
    killing = Killing(lambda: [victim.pid], Lines())
    killing.look(Progress(total=10, done=6), [])
    killing.look(Progress(total=10, done=10), [])
    assert killing.pid is None


def test_what_was_given_back_is_said_once_the_worker_is_gone(victim: subprocess.Popen[bytes]) -> None:
    lines, running = Lines(), [victim.pid]
    killing = Killing(lambda: running, lines)
    progress = Progress(total=10, done=5, running=2)
    killing.look(progress, [])
    killing.look(progress, LOST)
    assert len(lines.said) == 1
    running.clear()
    killing.look(progress, LOST)
    killing.look(progress, LOST)
    killing.finish(LOST)
    assert len(lines.said) == 2
    assert lines.said[1].startswith("2 jobs were in its hands: given back")


def test_at_the_end_it_is_said_in_any_case(victim: subprocess.Popen[bytes]) -> None:
    lines = Lines()
    killing = Killing(lambda: [victim.pid], lines)
    killing.finish([])
    assert lines.said == []
    killing.look(Progress(total=10, done=5, running=2), [])
    killing.finish([{"crashes": 1}])
    assert lines.said[1].startswith("1 job was in its hands")


class Noun:
    """What a client's noun answers, one after the other; the last for ever."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def _next(self) -> Any:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def list(self) -> list[Any]:
        return [Shown(job) for job in self._next()]

    def get(self, _id: str) -> Any:
        return Shown(self._next())


class Shown(dict[str, Any]):
    def as_dict(self) -> dict[str, Any]:
        return dict(self)


def test_pages_that_ended_between_the_two_looks_are_not_taken_for_lost() -> None:
    """The document is read after the jobs: it may have ended with pages that the list did not have yet."""
    pages = [
        {"id": f"job_{n}", "document_id": "doc_1", "status": "succeeded", "timings": None, "crashes": 0} for n in (1, 2)
    ]
    client = SimpleNamespace(
        jobs=Noun([{**pages[0], "status": "running"}], pages),
        documents=Noun({"id": "doc_1", "status": "completed", "pages": 2}),
    )
    file = cast("Any", SimpleNamespace(path=Path("a.pdf"), pages=2))
    submission = Submission(file, {"id": "doc_1", "object": "document"})
    watch = Watch(cast("Any", client), [submission], Lines())
    assert watch.run()
    assert [job["id"] for job in watch.jobs if job["status"] == "succeeded"] == ["job_1", "job_2"]
