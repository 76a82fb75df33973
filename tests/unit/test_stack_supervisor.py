"""What ends is started anew after a growing pause; what stops, stops in time; signals wake the wait."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from batchinfer.stack.children import Child, Program, start_child
from batchinfer.stack.orphans import process_runs
from batchinfer.stack.signals import Signals, Stopped
from batchinfer.stack.supervisor import LONGEST_PAUSE_S, Place, Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEP = Program("model", "model0", ["/bin/sleep", "1000"])
FALL = Program("cpu", "cpu0", ["/bin/sh", "-c", "exit 3"])


@contextmanager
def supervising() -> Iterator[tuple[Supervisor, list[tuple[str, int]]]]:
    ended: list[tuple[str, int]] = []
    supervisor = Supervisor(
        on_end=lambda place, child: ended.append((place.name, child.process.returncode)),
        on_start=lambda: None,
    )
    try:
        yield supervisor, ended
    finally:
        supervisor.stop(["model", "cpu"], 0.0, hurry=lambda: True)


def _look_until_started(supervisor: Supervisor, place: Place) -> Child:
    deadline = time.monotonic() + 20
    while place.child is None or not place.child.alive:
        assert time.monotonic() < deadline, "waited too long"
        supervisor.look()
        time.sleep(0.01)
    return place.child


def _place(program: Program) -> Place:
    return Place(program.role, program.name, lambda: start_child(program, None))


def test_a_killed_process_is_replaced_and_the_end_is_told_once() -> None:
    with supervising() as (supervisor, ended):
        place = _place(SLEEP)
        supervisor.add(place)
        assert place.child is not None
        pid = place.child.pid
        assert supervisor.pids() == {"model": [pid]}
        os.kill(pid, signal.SIGKILL)
        assert place.child.wait(10)
        child = _look_until_started(supervisor, place)
        assert child.pid != pid
        assert ended == [("model0", -signal.SIGKILL)]
        assert supervisor.pids() == {"model": [child.pid]}


def test_the_pause_grows_with_each_failure_and_has_a_limit() -> None:
    with supervising() as (supervisor, ended):
        place = _place(FALL)
        supervisor.add(place)
        pauses = []
        for _ in range(9):
            assert place.child is not None
            assert place.child.wait(10)
            supervisor.look()
            assert place.child is None
            pauses.append(round(place.start_at_s - time.monotonic(), 1))
            place.start_at_s = 0.0  # do not wait in a test
            supervisor.look()
        assert pauses == sorted(pauses)
        assert pauses[0] < 1
        assert LONGEST_PAUSE_S - 1 < pauses[-1] <= LONGEST_PAUSE_S
        assert ended == [("cpu0", 3)] * 9


def test_a_restart_that_was_asked_for_is_no_failure() -> None:
    with supervising() as (supervisor, _):
        place = _place(SLEEP)
        supervisor.add(place)
        before = place.child
        supervisor.restart(["model"])
        assert before is not None
        assert before.wait(10)
        assert _look_until_started(supervisor, place).pid != before.pid
        assert place.failures == 0


def test_stop_is_bounded_also_for_a_process_that_ignores_it() -> None:
    deaf = Program("model", "deaf", ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"], env={"PATH": "/bin"})
    with supervising() as (supervisor, _):
        supervisor.add(_place(deaf))
        supervisor.add(_place(SLEEP))
        pids = supervisor.pids()["model"]
        assert len(pids) == 2
        supervisor.stop(["model"], within_s=0.5, hurry=lambda: False)
        assert not any(process_runs(pid) for pid in pids)
        assert supervisor.pids() == {}


def test_a_start_that_fails_is_tried_again_later() -> None:
    with supervising() as (supervisor, _):
        refusals = [OSError(12, "no memory")]

        def launch() -> Child:
            if refusals:
                raise refusals.pop()
            return start_child(SLEEP, None)

        place = _place(SLEEP)
        supervisor.add(place)
        place.launch = launch
        assert place.child is not None
        place.child.kill()
        _look_until_started(supervisor, place)
        assert refusals == []
        assert place.failures == 2


def test_signals_wake_the_wait_and_are_counted() -> None:
    with Signals() as signals:
        signals.wait(0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            signals.wait(30.0)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            signals.wait(30.0)
        assert signals.stops == 2


def test_an_ended_child_wakes_the_wait() -> None:
    with Signals() as signals:
        child = start_child(Program("test", "test", ["/bin/sh", "-c", "exit 0"]), None)
        started_s = time.monotonic()
        signals.wait(60.0)
        assert time.monotonic() - started_s < 30
        assert child.wait(10)


def test_a_place_that_is_for_once_goes_with_its_process() -> None:
    with supervising() as (supervisor, ended):
        kept, once = _place(SLEEP), Place("model", "model1", lambda: start_child(SLEEP, None), once=True)
        supervisor.add(kept)
        supervisor.add(once)
        assert once.child is not None
        child = once.child
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(10)
        supervisor.look()
        supervisor.look()
        assert ended == [("model1", -signal.SIGKILL)]
        assert supervisor.places == [kept]
