"""Where the time from a model folder to a ready engine goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

#: In their order. start: libraries, configuration, tokenizer. read: until the weights' last byte is in memory.
#: copy: until they are where the model runs, in its dtype and quantised. warm_up: the first answer. verify: the tests.
NAMES = ("start", "read", "copy", "warm_up", "verify")


class Phases:
    """Seconds of each phase; together they are the time of the load. Used by one thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(NAMES, 0.0)

    def add(self, name: str, seconds: float) -> None:
        """Count some seconds, none where they are negative. Raises KeyError for an unknown phase."""
        self.seconds[name] += max(0.0, seconds)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count what a block takes, also where it fails. Raises KeyError for an unknown phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - began)

    def cut(self, began: float, turned: float) -> None:
        """Weights were read and copied at once, from `began` until now: what came before `turned`, when the last of
        them was in memory, is `read`, and the rest `copy`. Both on `time.monotonic()`."""
        now = time.monotonic()
        turned = min(max(turned, began), now)
        self.add("read", turned - began)
        self.add("copy", now - turned)

    def as_json(self) -> dict[str, float]:
        """All phases, in milliseconds' precision."""
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}
