"""Long polls: a quarter of the web server's threads may wait, so that the others always answer."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING

from batchinfer.errors import Busy, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

_RETRY_AFTER_S = 15


class Streams:
    """Open streams: half of the places of those who wait, and half of these for one key."""

    def __init__(self, waiters: Waiters) -> None:
        self._waiters = waiters
        self.places = max(1, waiters.places // 2)
        self.of_a_key = max(1, self.places // 2)
        self._open: Counter[UUID] = Counter()
        self._lock = Lock()

    @contextmanager
    def enter(self, key_id: UUID) -> Iterator[None]:
        """A place for a stream, for the length of the `with`.

        Raises Busy (code too_many_streams) where the key has as many as it may, Unavailable (code too_many_waiting)
        where all together are, or nobody else may wait.
        """
        with self._lock:
            if self._open[key_id] >= self.of_a_key:
                raise Busy(
                    f"This key has {self.of_a_key} open streams, as many as it may. Close one, or read pages of "
                    "GET /v1/events.",
                    code="too_many_streams",
                    retry_after_s=_RETRY_AFTER_S,
                )
            if self._open.total() >= self.places:
                raise _full()
            self._open[key_id] += 1
        try:
            with self._waiters.try_enter() as entered:
                if not entered:
                    raise _full()
                yield
        finally:
            with self._lock:
                self._open[key_id] -= 1
                if not self._open[key_id]:
                    del self._open[key_id]


def _full() -> Unavailable:
    return Unavailable(
        "As many streams are open, or requests waiting, as may. Read pages of GET /v1/events, which need no place, or "
        "open the stream again later.",
        code="too_many_waiting",
        retry_after_s=_RETRY_AFTER_S,
    )


class Waiters:
    """Places for those who wait. Nobody queues for a place: who finds none is answered at once."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._free = BoundedSemaphore(places)

    @contextmanager
    def try_enter(self) -> Iterator[bool]:
        """Take a place for the length of the `with`; yields whether there was one."""
        entered = self._free.acquire(blocking=False)
        try:
            yield entered
        finally:
            if entered:
                self._free.release()
