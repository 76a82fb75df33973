"""A fuse: after a failure nobody tries for a while, so that a dead Redis costs one request its patience and not all."""

from __future__ import annotations

import threading
import time


class Breaker:
    """Open after a failure for `pause_s`, then one caller may try. Safe for threads."""

    def __init__(self, pause_s: float = 2.0) -> None:
        self.pause_s = pause_s
        #: Failures, and tries left out while open.
        self.failures = 0
        self.skipped = 0
        self._closed_at = 0.0
        self._lock = threading.Lock()

    def try_enter(self) -> bool:
        """Whether to try now. While open, one caller each `pause_s` is let through."""
        with self._lock:
            now = time.monotonic()
            if self._closed_at and now < self._closed_at:
                self.skipped += 1
                return False
            if self._closed_at:
                self._closed_at = now + self.pause_s
            return True

    def succeed(self) -> bool:
        """It worked: everybody may try. Answers whether this closed the fuse: a moment worth a line in the log."""
        with self._lock:
            closed = bool(self._closed_at)
            self._closed_at = 0.0
            return closed

    def fail(self) -> bool:
        """It did not. Answers whether this opened the fuse: a moment worth a line in the log."""
        with self._lock:
            self.failures += 1
            opened = not self._closed_at
            self._closed_at = time.monotonic() + self.pause_s
            return opened

    @property
    def is_open(self) -> bool:
        """Whether the last try failed."""
        return bool(self._closed_at)
