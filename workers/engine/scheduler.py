"""How much goes into one prefill, which slots it goes to, how many slots there are: pure code, tested with numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

#: Where memory does not hold every slot at the whole context: the short class's share of the slots, and how many times
#: shorter it is. Only two classes, as each costs a forward of its own per step.
_SHORT_SHARE = 0.75
_SHORTER = 8
_SHORTEST = 256


class Item(Protocol):
    """What waits, and what its prefill costs."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def pixels(self) -> int: ...


@dataclass(frozen=True)
class LengthClass:
    """How many slots of how many tokens."""

    slots: int
    length: int


@dataclass
class PrefillBudget:
    """What one prefill may hold. A group's cost is its padded size: rows times the longest prompt.

    `tokens` are those that it computes, `held` those of its keys and values, with the beginnings that are copied;
    without it they are not counted.
    """

    tokens: int
    pixels: int
    rows: int
    held: int | None = None
    _longest: int = 0
    _sum: int = 0
    _rows: int = 0
    _pixels: int = 0

    def try_add(self, item: Item, reused: int = 0) -> bool:
        """Take the item if the group with it stays in the budget and is not mostly padding; the first always fits.

        Its first `reused` tokens are copied, as are those of all others of the group.
        """
        computed = item.prompt_tokens - reused
        longest, rows = max(self._longest, computed), self._rows + 1
        total, pixels = self._sum + computed, self._pixels + item.pixels
        padded = longest * rows
        over = padded > self.tokens or pixels > self.pixels or rows > self.rows
        over = over or (self.held is not None and padded + reused * rows > self.held)
        if self._rows and (over or padded > 2 * total):
            return False
        self._longest, self._sum, self._rows, self._pixels = longest, total, rows, pixels
        return True


class Places:
    """Free slots by length class while a group is put together."""

    def __init__(self, free: Sequence[tuple[int, int]]) -> None:
        """`free` is (length, free slots) for each class."""
        self._lengths = [length for length, _ in free]
        self._free = [slots for _, slots in free]

    def find(self, total_tokens: int) -> int | None:
        """The index of the shortest class with a free slot that holds so many tokens."""
        fitting = [
            (length, index)
            for index, length in enumerate(self._lengths)
            if self._free[index] > 0 and length >= total_tokens
        ]
        return min(fitting)[1] if fitting else None

    def take(self, index: int) -> None:
        """Use up a slot."""
        self._free[index] -= 1

    def hold(self, total_tokens: int) -> None:
        """Something more urgent waits for a slot of this size: what comes after it may not take one."""
        for index, length in enumerate(self._lengths):
            if length >= total_tokens:
                self._free[index] = 0


def plan_classes(slots: int, context: int, *, bytes_per_token: int, limit_bytes: int) -> tuple[LengthClass, ...]:
    """Length classes for up to `slots` requests whose keys and values stay within `limit_bytes`.

    Every slot holds the whole context where memory allows. Otherwise most are an eighth as long, then there are fewer,
    and in the end the context itself is cut: the longest class says what a request may hold.
    """
    budget = limit_bytes // max(1, bytes_per_token)
    if slots * context <= budget:
        return (LengthClass(slots, context),)
    short = max(_SHORTEST, context // _SHORTER)
    for count in range(slots, 1, -1):
        shorts = int(count * _SHORT_SHARE)
        if short < context and shorts * short + (count - shorts) * context <= budget:
            return (LengthClass(shorts, short), LengthClass(count - shorts, context))
    if budget >= context:
        return (LengthClass(min(slots, budget // context), context),)
    return (LengthClass(1, max(1, budget)),)


def split_evenly(count: int, most: int) -> list[tuple[int, int]]:
    """`count` rows in the fewest runs of at most `most`: (first, rows) each."""
    runs = -(-count // max(1, most))
    edges = [count * run // runs for run in range(runs + 1)] if runs else [0]
    return [(first, last - first) for first, last in itertools.pairwise(edges)]


def split_by_length(lengths: Sequence[int], overhead: int) -> list[list[int]]:
    """Indexes of prompts in groups of similar lengths, shortest first, so that padding costs less than it saves.

    A forward costs its rows times its longest prompt, and `overhead` tokens beside; the sum over groups is the least.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    costs, cuts = [0], [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        cost, cut = min((costs[start] + overhead + (end - start) * longest, start) for start in range(end))
        costs.append(cost)
        cuts.append(cut)
    groups, end = [], len(order)
    while end:
        groups.append(order[cuts[end] : end])
        end = cuts[end]
    return groups[::-1]
