"""Which cores a model worker computes on: near its device, none that is kept for the system, none of another worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchinfer.observe.cores import Ground

#: Up to so many cores nothing is kept back and nobody is bound: the scheduler of the kernel has no room to err in.
SMALL = 4
#: Up to so many one core is kept back, beyond them two.
MIDDLING = 16
#: Workers that share what is near a device: another model on it, or a swap's new one beside the old, finds as much.
SHARERS = 2


@dataclass(frozen=True)
class CorePlan:
    """Cores of one worker. `threads`: how many it computes with, unless told otherwise."""

    cores: frozenset[int]
    threads: int
    #: There were too few: others compute on some of them too.
    shared: bool = False
    #: False: the process is left as it is, and `cores` is what it may run on.
    bound: bool = True


def list_reserved(allowed: frozenset[int], reserve: int | None) -> frozenset[int]:
    """The cores that are kept for the system: the first ones, where most interrupts go; never all. `reserve` None takes
    the default."""
    wanted = reserve
    if wanted is None:
        wanted = 0 if len(allowed) <= SMALL else 1 if len(allowed) <= MIDDLING else 2
    return frozenset(sorted(allowed)[: min(wanted, max(0, len(allowed) - 1))])


def plan_cores(
    ground: Ground,
    *,
    near: int | None = None,
    cards: int = 1,
    wanted: int = 0,
    reserve: int | None = None,
    taken: frozenset[int] = frozenset(),
) -> CorePlan:
    """Cores for a worker whose device is near a node (None: near all), one of `cards` devices there.

    `wanted` cores, 0 for its share: half of what is near, divided among the devices. `taken` are other workers'. Where
    what is left is too little, or not to be known, all that is near is shared: no worker waits for another's place.
    """
    reserved = list_reserved(ground.allowed, reserve)
    usable = ground.allowed - reserved
    close = usable & ground.nodes.get(near, usable) if near is not None else usable
    close = close or usable
    share = max(1, len(close) // (SHARERS * max(1, cards)))
    if ground.quota is not None:
        share = min(share, max(1, int(ground.quota)))
    threads = min(wanted or share, max(1, len(close)))
    if not reserved and len(ground.nodes) < 2 and len(usable) <= SMALL:
        return CorePlan(usable, threads, bound=False)
    free = close - taken
    if ground.crowded or len(free) < threads:
        return CorePlan(close, threads, shared=True)
    return CorePlan(_choose(ground, free, threads), threads)


def _choose(ground: Ground, free: frozenset[int], count: int) -> frozenset[int]:
    """So many free cores: of one node where one has them, the one with the most; else whatever is free."""
    rooms = [free & cores for cores in ground.nodes.values()]
    room = max(rooms, key=len, default=free)
    return frozenset(sorted(room if len(room) >= count else free)[:count])
