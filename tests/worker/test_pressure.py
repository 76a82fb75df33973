"""Memory gets short while a worker works: nothing more is claimed, what runs ends, and it goes on by itself."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from batchinfer.domain.jobs import JobState
from batchinfer.domain.pressure import STALLS
from batchinfer.services import fleet
from workers.feeder import Feeder
from workers.gate import Gate

TEXT = "some avg10={some} avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


def start(rig: Any, root: Path) -> Any:
    """With a gate that reads files of the test's own, at each look of the feeder."""
    crew = rig.crew
    crew.gate = Gate(rig.ctx.settings, root=root, look_s=0.0)
    crew.gate.on_turn = crew.heart.beat_soon
    crew.feeder = Feeder(rig.ctx, crew.lease, crew.station, crew.committer, crew.gate)
    crew.station.on_room = crew.committer.on_written = crew.feeder.wake
    crew.start(threading.Event())
    return rig


def press(root: Path, some: float) -> None:
    """Written beside and moved there: a look sees the old text or the new."""
    file = root / "proc/pressure/memory"
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".new")
    beside.write_text(TEXT.format(some=some))
    beside.replace(file)


def test_a_worker_pauses_while_memory_is_short_and_loses_nothing(make_rig, work, until, tmp_path) -> None:
    press(tmp_path, 1.0)
    rig = start(make_rig(slots=2, steps_per_s=200), tmp_path)
    running = [work.submit(f"[[steps:100]] {number}") for number in range(2)]
    until(lambda: rig.station.count_inside() == 2, "both run")

    press(tmp_path, 80.0)
    until(lambda: rig.crew.gate.cause == STALLS, "the worker sees it")
    waiting = [work.submit(f"later {number}") for number in range(6)]
    assert {job.state for job in work.wait(*running)} == {JobState.SUCCEEDED}
    claimed = rig.crew.feeder.rows
    rig.crew.feeder.wake(urgent=True)
    until(lambda: find_paused(work) == [STALLS], "its lease says so")
    assert {work.state(job_id) for job_id in waiting} == {JobState.QUEUED}
    assert rig.crew.feeder.rows == claimed
    assert rig.crew.describe()["paused"] == STALLS

    press(tmp_path, 25.0)  # within the band nothing changes
    assert not rig.crew.gate.is_open()
    press(tmp_path, 2.0)
    assert {job.state for job in work.wait(*waiting)} == {JobState.SUCCEEDED}
    until(lambda: find_paused(work) == [None], "its lease says that it goes on")
    assert [work.get(job_id).attempts for job_id in (*running, *waiting)] == [1] * 8
    assert rig.crew.gate.pauses == 1


def find_paused(work: Any) -> list[Any]:
    return [worker.info.get("paused") for worker in fleet.list_workers(work.ctx, work.caller) if not worker.dead]
