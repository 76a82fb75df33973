"""Bind this process to cores near its device, and keep other workers of this home away from them."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchinfer.domain.cores import CorePlan, plan_cores
from batchinfer.observe.cores import Ground, find_card, list_cards, read_ground, show_cores
from batchinfer.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

#: How long another worker may take to choose; one that was stopped while it chose keeps nobody from computing.
CHOOSE_S = 5.0

_log = get_logger(__name__)
#: Locks that this process holds as long as it lives.
_held: list[int] = []


@dataclass(frozen=True)
class CoreRules:
    """What the settings say: the folder where workers tell each other their cores, and how many are kept back."""

    folder: Path
    reserve: int | None = None


def bind(visible: str, threads: int, rules: CoreRules, root: Path = Path("/")) -> CorePlan:
    """Choose cores for the device that CUDA_VISIBLE_DEVICES names (empty: the CPU) and bind all threads to them.

    A machine that refuses is told of in the log, and the process computes where it may.
    """
    ground, cards = read_ground(root), list_cards(root) if visible else []
    card = find_card(cards, visible)
    node = card.node if card else None
    beside = sum(1 for one in cards if one.node == node) if card else len(cards)

    def plan(taken: frozenset[int]) -> CorePlan:
        return plan_cores(ground, near=node, cards=max(1, beside), wanted=threads, reserve=rules.reserve, taken=taken)

    chosen = plan(frozenset())
    if chosen.bound:
        chosen = take(rules.folder, ground, plan)
        _apply(chosen)
    return chosen


def take(folder: Path, ground: Ground, plan: Callable[[frozenset[int]], CorePlan]) -> CorePlan:
    """Plan around the cores of others, and hold what is planned: a lock of the kernel a core, which ends with us."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        turn = _lock(folder / "choosing", CHOOSE_S)
        locks = {core: _lock(folder / str(core)) for core in ground.allowed}
    except OSError as error:
        _log.warning("workers cannot tell each other their cores", error=type(error).__name__)
        return plan(frozenset())
    chosen = plan(frozenset(core for core, lock in locks.items() if lock is None))
    for core, lock in locks.items():
        if lock is not None:
            if core in chosen.cores and not chosen.shared:
                _held.append(lock)
            else:
                os.close(lock)
    if turn is not None:
        os.close(turn)
    return chosen


def _lock(file: Path, patience_s: float = 0.0) -> int | None:
    """A descriptor with the lock of a file; None where somebody else has it. Raises OSError."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() - began >= patience_s:
                os.close(descriptor)
                return None
            time.sleep(0.01)
        except OSError:
            os.close(descriptor)
            raise
        else:
            return descriptor


def _apply(plan: CorePlan) -> None:
    """The kernel binds threads, not processes: each that is there; those to come inherit it."""
    try:
        os.sched_setaffinity(0, plan.cores)
        for task in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # it ended
                os.sched_setaffinity(int(task.name), plan.cores)
    except OSError as error:
        _log.warning("this process cannot be bound to cores", error=type(error).__name__)
        return
    _log.info("bound to cores", cores=show_cores(plan.cores), shared=plan.shared)
