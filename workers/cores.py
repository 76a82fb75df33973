"""Bind this process to cores near its device, and keep other workers of this machine away from them."""

from __future__ import annotations

import os
import socket
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
#: Names that this process holds as long as it lives.
_held: list[socket.socket] = []


@dataclass(frozen=True)
class CoreRules:
    """How many cores are kept back, and under which name workers tell each other theirs."""

    reserve: int | None = None
    book: str = "batchinfer"


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
        chosen = take(rules.book, ground, plan)
        _apply(chosen)
    return chosen


def take(book: str, ground: Ground, plan: Callable[[frozenset[int]], CorePlan]) -> CorePlan:
    """Plan around the cores of others, and hold what is planned: a name a core, which ends with this process."""
    turn = _claim(f"{book} choosing", CHOOSE_S)
    names = {core: _claim(f"{book} core {core}") for core in ground.allowed}
    chosen = plan(frozenset(core for core, name in names.items() if name is None))
    for core, name in names.items():
        if name is not None:
            if core in chosen.cores and not chosen.shared:
                _held.append(name)
            else:
                name.close()
    if turn is not None:
        turn.close()
    return chosen


def _claim(name: str, patience_s: float = 0.0) -> socket.socket | None:
    """A name among the abstract sockets of this machine (unix(7)), which one process has at a time, whatever its user
    and its home; None where somebody else has it. Nothing listens there."""
    began = time.monotonic()
    while True:
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0{name}")
        except OSError:
            holder.close()
            if time.monotonic() - began >= patience_s:
                return None
            time.sleep(0.01)
        else:
            return holder


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
