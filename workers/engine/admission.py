"""Who comes next: which of the requests that are ready share a prefill, and whether it is worth one yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from workers.engine.features import Budgets, Features
from workers.engine.forwards import Seat
from workers.engine.prefix import Prefix, PrefixStore
from workers.engine.prepared import BLOCK_TOKENS, Prepared
from workers.engine.scheduler import Places, PrefillBudget
from workers.engine.tickets import Ticket

#: The least tokens for which a request waits until another has computed the beginning that both have; below it the turn
#: that it loses costs more than the tokens that it saves.
_WORTH_WAITING_TOKENS = 64


class Group(NamedTuple):
    """Requests for one prefill, what they all begin with, and whether it is one long prompt that goes in pieces."""

    seats: list[Seat]
    prefix: Prefix | None = None
    is_long: bool = False


class Admission:
    """Picks groups by urgency within the budgets. `can_cut` says whether a prompt may go in pieces."""

    def __init__(
        self,
        features: Features,
        budgets: Budgets,
        prefixes: PrefixStore,
        *,
        slots: int,
        slides: bool,
        can_cut: Callable[[Prepared], bool],
    ) -> None:
        self._features, self._budgets, self._prefixes = features, budgets, prefixes
        self._slots, self._slides, self._can_cut = slots, slides, can_cut
        self._put_off = 0

    def may_wait(self, ready: Sequence[Ticket], free: int) -> bool:
        """Whether a prefill for so few rows is put off, for company; not for long while many slots are `free`, since a
        step of few rows costs nearly as much as one of many. Nobody interactive waits."""
        worth = max(1, int(self._slots * self._budgets.gather_share))
        if ready[0].request.job_class != "interactive" and min(free, len(ready)) < worth:
            self._put_off += 1
            if self._put_off <= self._budgets.gather_steps * (1 - free / self._slots):
                return True
        self._put_off = 0
        return False

    def choose(self, ready: Sequence[Ticket], places: Places, *, most: int, busy: bool, cutting: bool) -> Group:
        """The most urgent request that has a slot, and others that can share its forward, `most` of them.

        `busy` says whether rows are in flight, `cutting` whether a long prompt is under way: then others wait for it.
        """
        most = most if self._features.grouped_prefill else 1
        limits = self._budgets
        budget = PrefillBudget(self._find_tokens(busy), limits.prefill_pixels, most, limits.prefill_tokens)
        seats: list[Seat] = []
        lead: tuple[object, ...] = ()
        prefix: Prefix | None = None
        beginnings = _Beginnings(self._prefixes)
        for ticket in ready:
            item = ticket.plan.prepared
            place = places.find(item.total_tokens)
            if place is None:
                places.hold(item.total_tokens)
                continue
            keys = self.prefix_keys(item) if self._features.prefix_reuse else []
            found = self._prefixes.find(keys)
            if self._is_long(item, found):
                if not seats and not cutting:
                    return Group([(ticket, place)], found, is_long=True)
                continue
            key = item.group_key(found.key if found else None, slides=self._slides)
            if seats and (key != lead or beginnings.is_worth_waiting(keys, found)):
                continue
            if not budget.try_add(item, found.tokens if found else 0):
                break
            if not seats:
                lead, prefix = key, found
            places.take(place)
            seats.append((ticket, place))
            beginnings.add(keys)
            if len(seats) == most:
                break
        return Group(seats, prefix)

    def prefix_keys(self, item: Prepared) -> list[bytes]:
        """The keys of the beginnings that a prompt may reuse."""
        return item.prefix_keys(before_pictures=self._features.prefix_before_pictures)

    def _find_tokens(self, busy: bool) -> int:
        budgets = self._budgets
        if busy and self._features.chunked_prefill:
            return min(budgets.prefill_tokens, budgets.chunk_tokens)
        return budgets.prefill_tokens

    def _is_long(self, item: Prepared, prefix: Prefix | None) -> bool:
        """Whether a prompt goes in pieces."""
        rest = item.prompt_tokens - (prefix.tokens if prefix else 0)
        return self._features.chunked_prefill and rest > self._budgets.chunk_tokens and self._can_cut(item)


class _Beginnings:
    """How the requests of a group begin, so that of many with one long beginning a single one computes it.

    The others are left out of the group and find the prefix kept a turn later. A beginning that could not be kept is
    not waited for again.
    """

    def __init__(self, prefixes: PrefixStore) -> None:
        self._prefixes = prefixes
        self._keys: set[bytes] = set()
        self._awaited: set[bytes] = set()

    def add(self, keys: Sequence[bytes]) -> None:
        """A request with these block keys is in the group."""
        self._keys.update(key for key in keys if key)

    def is_worth_waiting(self, keys: Sequence[bytes], found: Prefix | None) -> bool:
        """Whether a request with these block keys waits for one of the group, beyond the prefix `found` for both."""
        blocks = next((index for index in range(len(keys), 0, -1) if keys[index - 1] in self._keys), 0)
        tokens = blocks * BLOCK_TOKENS - (found.tokens if found else 0)
        if tokens < _WORTH_WAITING_TOKENS:
            return False
        key = keys[blocks - 1]
        if key not in self._awaited and not self._prefixes.try_await(key):
            return False
        self._awaited.add(key)
        return True
