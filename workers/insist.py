"""Doing something again until the database answers: a worker outlives any outage of it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

from batchinfer.errors import Unavailable
from batchinfer.observe.logs import get_logger

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 3.0

T = TypeVar("T")
_log = get_logger(__name__)


class Stopped(Exception):
    """What was insisted on is no longer wanted."""


def pauses() -> Iterator[float]:
    """Seconds between tries: doubling up to a limit, with full jitter so that workers do not come back
    together."""
    longest = FIRST_PAUSE_S
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(LONGEST_PAUSE_S, longest * 2)


def insist(action: Callable[[], T], quit_: threading.Event, *, what: str) -> T:
    """Call `action` until it no longer raises Unavailable. Raises Stopped once `quit_` is set.

    The action must be safe to repeat after an unknown outcome.
    """
    for number, pause_s in enumerate(pauses()):
        try:
            return action()
        except Unavailable as error:
            if number == 0:
                _log.warning("waiting for a part that does not answer", doing=what, code=error.code)
            if quit_.wait(pause_s):
                raise Stopped(what) from None
    raise AssertionError("pauses() never ends")
