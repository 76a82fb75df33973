"""The signals that a supervisor waits for, without handlers that do anything."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(Exception):
    """We were asked to stop while something was waited for."""


class Signals:
    """While open: counts requests to stop, and `wait` wakes at once for them and for ended children."""

    def __init__(self) -> None:
        #: How often we were asked to stop; a second time means now.
        self.stops = 0
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup_before = -1

    def __enter__(self) -> Signals:
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in STOPPING:
            self._before[number] = signal.signal(number, self._count)
        # Without a handler of Python's own nothing would be written to the pipe.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, timeout_s: float) -> None:
        """Sleep until a signal comes, at most `timeout_s`. Raises Stopped once we were asked to stop."""
        select.select([self._reader], [], [], timeout_s)
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)
        if self.stops:
            raise Stopped

    def _count(self, *_: object) -> None:
        self.stops += 1
