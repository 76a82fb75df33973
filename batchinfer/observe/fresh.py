"""A reading that costs something: made by one thread at a time, kept for a moment, and never waited for without end."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Thing = TypeVar("Thing")


class Overdue(Exception):
    """The reading did not end in time. It goes on; nobody begins another beside it."""


class Fresh(Generic[Thing]):
    """Reads when asked, but not more often than each `keep_s` seconds, and never twice at once. Safe for threads.

    What the reading raises is kept as long as a value is: a part that is away is not asked by every caller.
    """

    def __init__(
        self,
        read: Callable[[], Thing],
        *,
        keep_s: float = 5.0,
        patience_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._keep_s, self._patience_s, self._clock = read, keep_s, patience_s, clock
        self._changed = threading.Condition()
        self._reading = False
        self._read_at: float | None = None
        self._value: Thing
        self._error: Exception | None = None

    def get(self) -> Thing:
        """The value, at most `keep_s` old. Raises Overdue, and what the reading raised."""
        with self._changed:
            if not self._is_fresh():
                if not self._reading:
                    self._reading = True
                    # A daemon: one that hangs on a server that is frozen keeps no process from its end.
                    threading.Thread(target=self._run, name="metrics reading", daemon=True).start()
                if not self._changed.wait_for(lambda: not self._reading, self._patience_s):
                    raise Overdue
            if self._error is not None:
                raise self._error.with_traceback(None)
            return self._value

    def _is_fresh(self) -> bool:
        return not self._reading and self._read_at is not None and self._clock() - self._read_at < self._keep_s

    def _run(self) -> None:
        value, failure = None, None
        try:
            value = self._read()
        except Exception as error:  # whatever it is, each who waits is told
            failure = error
        with self._changed:
            if failure is None:
                self._value = value  # type: ignore[assignment]
            self._error, self._read_at, self._reading = failure, self._clock(), False
            self._changed.notify_all()
