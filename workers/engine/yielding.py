"""Night work yields: which running rows give their slots to interactive requests that find none. Pure code.

Only rows of class batch are evicted, the youngest first, since it loses least; one for each interactive request that
waits, and never the last rows of later classes: an eighth of the slots stays theirs, so that nobody starves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from workers.engine.scheduler import Places
from workers.engine.tickets import Ticket

#: The share of the slots that rows of later classes keep, whatever waits.
KEPT_SHARE = 0.125


class Running(NamedTuple):
    """A row in a slot: when it began, and how many tokens its slot holds."""

    ticket: Ticket
    started_at: float
    length: int = 0


class Wanting(NamedTuple):
    """A request that is ready, and the tokens that it needs a slot for."""

    ticket: Ticket
    tokens: int = 0


def count_kept(slots: int) -> int:
    """Slots that are never taken from rows of later classes: an eighth, at least one, but never the only one."""
    return min(slots - 1, max(1, int(slots * KEPT_SHARE)))


def choose_evicted(
    waiting: Iterable[Wanting], running: Sequence[Running], places: Places, *, free: int, slots: int
) -> list[Ticket]:
    """The rows that give up their slots for those of `waiting` (most urgent first) that are interactive and find none.

    `places` are the free slots, of which `free` may be used. Each request that gets a slot so is granted it.
    """
    spare = sum(not row.ticket.is_interactive for row in running) - count_kept(slots)
    candidates = sorted((row for row in running if row.ticket.is_evictable), key=lambda row: row.started_at)
    chosen: list[Ticket] = []
    for ticket, tokens in waiting:
        place = places.find(tokens) if free > 0 else None
        if place is not None:
            places.take(place)
            free -= 1
        elif ticket.is_interactive and not ticket.granted and len(chosen) < spare:
            fitting = [row for row in candidates if row.length >= tokens]
            if fitting:
                candidates.remove(fitting[-1])
                chosen.append(fitting[-1].ticket)
                ticket.grant()
    return chosen
