"""A hung engine ends the process; a process that was itself stopped does not take that for a hang."""

from __future__ import annotations

import threading
import time

from workers.engine.fake import FakeEngine
from workers.engine.protocol import Request
from workers.watchdog import EXIT_HUNG, Watchdog


def ask(engine: FakeEngine, text: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    engine.submit(Request(id=text, messages=(message,)))


def test_a_hung_engine_is_noticed() -> None:
    engine, statuses, ended = FakeEngine(allow_faults=True), [], threading.Event()

    def end(status: int) -> None:
        statuses.append(status)
        ended.set()

    watchdog = Watchdog(engine.progress, 0.4, end)
    watchdog.start()
    ask(engine, "[[hang]]")
    assert ended.wait(100)
    assert statuses == [EXIT_HUNG]
    watchdog.join(5)
    engine.close()


def test_work_that_moves_and_no_work_are_left_alone() -> None:
    engine, statuses = FakeEngine(steps_per_s=20), []
    # Two seconds without a step are a hang; three seconds of work and one of none are not.
    watchdog = Watchdog(engine.progress, 2.0, statuses.append)
    watchdog.start()
    ask(engine, "[[steps:60]]")
    watchdog.join(4.0)
    assert watchdog.is_alive()
    watchdog.stop()
    watchdog.join(5)
    engine.close()
    assert statuses == []


def test_the_time_in_which_the_process_stood_still_does_not_count() -> None:
    looks = iter([0.0] * 3)
    statuses: list[int] = []

    def progress() -> float:
        if next(looks, None) is None:
            watchdog.stop()
        time.sleep(0.5)  # as if the process had been stopped between two looks
        return 0.0

    watchdog = Watchdog(progress, 1.0, statuses.append)
    watchdog.start()
    watchdog.join(100)
    assert statuses == []
