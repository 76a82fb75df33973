"""Long polls: a quarter of the web server's threads may wait, so that the others always answer."""

from __future__ import annotations

from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


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
