"""Waiting for an end: asked again after pauses that grow, until it is there or the time is over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from batchinfer.errors import Overrun

if TYPE_CHECKING:
    from collections.abc import Callable


class Ending(Protocol):
    """What ends."""

    @property
    def id(self) -> str: ...

    @property
    def ended(self) -> bool: ...


Thing = TypeVar("Thing", bound=Ending)
#: Pauses in seconds: the first, how each grows, and the longest.
_FIRST_S, _GROWTH, _LONGEST_S = 0.1, 1.5, 5.0


class Deadline:
    """The end of somebody's patience; None waits for ever."""

    def __init__(self, timeout_s: float | None) -> None:
        self._at_s = None if timeout_s is None else time.monotonic() + timeout_s

    def clip(self, seconds: float) -> float:
        """So many seconds, or fewer where the deadline is nearer; never below 0."""
        return seconds if self._at_s is None else max(0.0, min(seconds, self._at_s - time.monotonic()))

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return self._at_s is not None and time.monotonic() >= self._at_s


def wait_for(
    look: Callable[[float], Thing],
    timeout_s: float | None,
    *,
    tell: Callable[[Thing], None] = lambda _: None,
    hold_s: float = 0.0,
    longest_s: float = _LONGEST_S,
) -> Thing:
    """Call `look` until what it answers has ended. It is told how many seconds (at most `hold_s`) it may take itself;
    where it took them, the next call follows at once. `tell` hears every answer. Raises Overrun."""
    deadline, pause_s = Deadline(timeout_s), _FIRST_S
    while True:
        began_s, held_s = time.monotonic(), deadline.clip(hold_s)
        thing = look(held_s)
        tell(thing)
        if thing.ended:
            return thing
        if deadline.passed:
            overrun = Overrun(f"{thing.id} has not ended after {timeout_s:g} s. It goes on: wait for it again.")
            overrun.job_id = thing.id if thing.id.startswith("job_") else None
            raise overrun
        if held_s <= 0 or time.monotonic() - began_s < held_s / 2:
            time.sleep(deadline.clip(pause_s))
            pause_s = min(pause_s * _GROWTH, longest_s)
