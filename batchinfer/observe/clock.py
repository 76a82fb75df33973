"""The two clocks: UTC for what is stored and shown, monotonic for how long something takes."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """The time now, aware, in UTC."""
    return datetime.now(UTC)


def to_unix(moment: datetime | None) -> int | None:
    """Whole seconds since 1970 of an aware time, as the API shows times; None stays None."""
    return None if moment is None else int(moment.timestamp())


class Stopwatch:
    """Seconds since it was made, unharmed by a clock that is set."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started
