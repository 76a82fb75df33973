"""When a worker takes nothing more on because memory is short, and when it goes on: a table with a dead band."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchinfer.observe.strain import Strain

#: Below this part of a limit it is easy again; between the two nothing changes.
EASED = 0.5
#: Pages from swap are counted over so long, as the kernel does with stalls.
WINDOW_S = 10.0


class Admission(StrEnum):
    """Whether rows are claimed."""

    OPEN = "open"
    PAUSED = "paused"


class Weight(StrEnum):
    """How a look compares with the limits: all below their half, none reached, or one reached."""

    EASY = "easy"
    BETWEEN = "between"
    HEAVY = "heavy"


#: The whole machine.
MOVES = {
    (Admission.OPEN, Weight.EASY): Admission.OPEN,
    (Admission.OPEN, Weight.BETWEEN): Admission.OPEN,
    (Admission.OPEN, Weight.HEAVY): Admission.PAUSED,
    (Admission.PAUSED, Weight.EASY): Admission.OPEN,
    (Admission.PAUSED, Weight.BETWEEN): Admission.PAUSED,
    (Admission.PAUSED, Weight.HEAVY): Admission.PAUSED,
}
#: What is told of a pause.
STALLS, SWAP = "memory pressure", "swap"


@dataclass(frozen=True)
class PressureLimits:
    """What is too much; 0 looks at nothing. Shares in %, swap in MiB a second."""

    some: float
    full: float
    swap_in_mib_s: float


@dataclass(frozen=True)
class Verdict:
    """What a look came to. `cause` is empty while the admission is open."""

    admission: Admission
    cause: str = ""


class Watch:
    """Judges looks in their order."""

    def __init__(self, limits: PressureLimits) -> None:
        self._limits = limits
        self._admission, self._cause = Admission.OPEN, ""
        #: (time, MiB read from swap until then), the oldest at most WINDOW_S old.
        self._swaps: deque[tuple[float, float]] = deque()

    def judge(self, strain: Strain, now_s: float) -> Verdict:
        """What follows from a look at `now_s` of a clock that only goes on. What is not measured weighs nothing."""
        parts = {
            STALLS: max(_ratio(strain.some, self._limits.some), _ratio(strain.full, self._limits.full)),
            SWAP: _ratio(self._find_rate(strain.swapped_in_mib, now_s), self._limits.swap_in_mib_s),
        }
        cause = max(parts, key=lambda name: parts[name])
        weight = Weight.HEAVY if parts[cause] >= 1 else Weight.EASY if parts[cause] < EASED else Weight.BETWEEN
        before, self._admission = self._admission, MOVES[self._admission, weight]
        if self._admission is Admission.OPEN:
            self._cause = ""
        elif before is Admission.OPEN:
            self._cause = cause
        return Verdict(self._admission, self._cause)

    def _find_rate(self, swapped_in_mib: float | None, now_s: float) -> float | None:
        if swapped_in_mib is None:
            return None
        while self._swaps and now_s - self._swaps[0][0] > WINDOW_S:
            self._swaps.popleft()
        self._swaps.append((now_s, swapped_in_mib))
        since_s, first = self._swaps[0]
        # Over less than a second a single read would look like a flood.
        return max(0.0, swapped_in_mib - first) / max(1.0, now_s - since_s)


def _ratio(found: float | None, limit: float) -> float:
    return found / limit if found is not None and limit > 0 else 0.0
