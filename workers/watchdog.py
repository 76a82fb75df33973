"""The watchdog: a process whose engine hangs looks alive and does nothing, so it ends itself and is
replaced."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from batchinfer.observe.logs import get_logger
from workers.engine.protocol import OVER

if TYPE_CHECKING:
    from collections.abc import Callable

#: Exit status of a process whose engine hangs.
EXIT_HUNG = 70
#: Exit status of a process whose engine can make no more steps, as after a lost device.
EXIT_OVER = 71
#: Time in which what the engine ended with may still be written, before such a process ends.
LAST_WORDS_S = 2.0
#: Exit status of a process whose model cannot be loaded: the same again would fail again, so wait longer.
EXIT_MODEL = 78

_log = get_logger(__name__)


class Watchdog(threading.Thread):
    """Ends the process when `progress()` (on `time.monotonic()`) is older than `limit_s`, or is `OVER`."""

    def __init__(self, progress: Callable[[], float], limit_s: float, end: Callable[[int], object] = os._exit) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._progress, self._limit_s, self._end = progress, limit_s, end
        self._quit = threading.Event()

    def stop(self) -> None:
        """Watch no more."""
        self._quit.set()

    def run(self) -> None:
        # A process that was itself stopped (SIGSTOP, a suspended host) must not take that for the engine's
        # fault: what counts is the time in which this thread ran.
        still_s, looked_at, seen = 0.0, time.monotonic(), self._progress()
        pause_s = min(1.0, self._limit_s / 10)
        while not self._quit.wait(pause_s):
            now, last = time.monotonic(), self._progress()
            still_s = 0.0 if last != seen else still_s + min(now - looked_at, 2 * pause_s)
            looked_at, seen = now, last
            if last == OVER:
                _log.critical("the engine can make no more steps; the process ends")
                if not self._quit.wait(LAST_WORDS_S):
                    self._end(EXIT_OVER)
                return
            if still_s > self._limit_s:
                _log.critical("no engine step for too long; the process ends", still_s=round(still_s, 1))
                self._end(EXIT_HUNG)
                return


def end_process_after(seconds: float, status: int, why: str) -> None:
    """Have this process end with `status` in `seconds`, whatever hangs then: an orderly end has a time
    limit."""

    def end() -> None:
        _log.critical("the orderly end took too long; the process ends", why=why)
        os._exit(status)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
