"""Keeps processes running: starts them anew with a growing pause, and ends them in order."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchinfer.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchinfer.stack.children import Child

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
#: A process that lived this long has recovered; its next end counts as a first one.
RECOVERED_S = 60.0


@dataclass
class Place:
    """One of the processes that are wanted, and how it goes with it."""

    role: str
    name: str
    launch: Callable[[], Child]
    child: Child | None = None
    failures: int = 0
    #: On the monotonic clock.
    start_at_s: float = 0.0
    #: Not started anew when it ends: the place goes with its process.
    once: bool = False


@dataclass
class Supervisor:
    """All places of a machine in the order of starting. Use it from the main thread."""

    #: Called with the place and its ended child, before anything is started in its stead.
    on_end: Callable[[Place, Child], None]
    #: Called after each start, for the ready-file.
    on_start: Callable[[], None]
    places: list[Place] = field(default_factory=list)

    def add(self, place: Place) -> None:
        """Want a process, and start it now unless it runs already."""
        self.places.append(place)
        if place.child is None:
            self._start(place)

    def look(self) -> None:
        """See which children ended, and start what is due. Call it after each signal and twice a second."""
        now_s = time.monotonic()
        for place in list(self.places):
            if place.child is not None and not place.child.alive:
                self._note_end(place, place.child, now_s)
            if place.once and place.child is None:
                self.places.remove(place)
            elif place.child is None and now_s >= place.start_at_s:
                self._try_start(place, now_s)

    def pids(self) -> dict[str, list[int]]:
        """Process ids by role."""
        found: dict[str, list[int]] = {}
        for place in self.places:
            running = found.setdefault(place.role, [])
            if place.child is not None and place.child.alive:
                running.append(place.child.pid)
        return found

    def stop(self, roles: Iterable[str], within_s: float, hurry: Callable[[], bool]) -> None:
        """End the places of these roles together: SIGTERM, and SIGKILL after `within_s` or in a `hurry`."""
        wanted = set(roles)
        children = [place.child for place in self.places if place.role in wanted and place.child is not None]
        self.places = [place for place in self.places if place.role not in wanted]
        for child in children:
            child.send(child.program.stop_signals[0])
        deadline = time.monotonic() + within_s
        while any(child.alive for child in children) and time.monotonic() < deadline and not hurry():
            time.sleep(0.02)
        for child in children:
            child.kill()

    def restart(self, roles: Iterable[str]) -> None:
        """Ask the places of these roles to end; `look` starts them anew."""
        wanted = set(roles)
        for place in self.places:
            if place.role in wanted and place.child is not None:
                place.failures = -1  # a restart that was asked for is no failure
                place.child.send(signal.SIGTERM)

    def _note_end(self, place: Place, child: Child, now_s: float) -> None:
        child.kill()  # what it may have left in its group
        place.child = None
        if now_s - child.started_at_s > RECOVERED_S:
            place.failures = 0
        self._pause(place, now_s)
        self.on_end(place, child)

    def _start(self, place: Place) -> None:
        place.child = place.launch()
        self.on_start()

    def _try_start(self, place: Place, now_s: float) -> None:
        """A start that fails (a full disk, no more processes) is tried again later."""
        try:
            self._start(place)
        except (StartError, OSError):
            self._pause(place, now_s)

    def _pause(self, place: Place, now_s: float) -> None:
        place.failures += 1
        pause_s = min(FIRST_PAUSE_S * 2 ** (place.failures - 1), LONGEST_PAUSE_S) if place.failures else 0.0
        place.start_at_s = now_s + pause_s
