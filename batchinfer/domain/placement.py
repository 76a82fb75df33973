"""Which replica goes where: wishes in the order of priority, machines, and what stands, to what is to be done.

Pure and deterministic: the order in which anything is listed says nothing, and what was done needs not be done again.
What serves is never moved without need; a device's memory is never promised twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from batchinfer.domain.placing_facts import Drain, Machine, Placement, Standing, Start, Wish
from batchinfer.domain.replicas import Wanted
from batchinfer.domain.rooms import Place, Rooms, fit_next

STOPPED = "its deployment was stopped"
HOST_DRAINS = "its host is drained"
DEVICE_GONE = "its host has this device no more"
SUPERSEDED = "its revision is not wanted any more"
SURPLUS = "there are more replicas than are wanted"
IDLE = "no job came for the idle time"
MAKES_WAY = "it makes way for the next revision"


def place(
    wishes: Iterable[Wish], machines: Iterable[Machine], standing: Iterable[Standing], now: datetime
) -> Placement:
    """What is to be done now. `standing` is all that has not ended; on hosts that do not live, it is left alone."""
    return _Round(wishes, machines, standing, now).run()


def is_idle(wish: Wish, standing: Iterable[Standing], now: datetime) -> bool:
    """Whether a wish is to be unloaded: all that stands of it is up, and no job came for its idle time."""
    if wish.idle_s is None or wish.pinned or wish.asleep or wish.demand:
        return False
    found = list(standing)
    times = [each.since for each in found if each.since is not None]
    times += [wish.last_used_at] if wish.last_used_at else []
    if not times or not all(each.settled for each in found):
        return False
    return now - max(times) >= timedelta(seconds=wish.idle_s)


def _rank(wish: Wish) -> tuple[int, bool, UUID]:
    """Of equals those that may sleep come last: they would make way for the others."""
    return -wish.priority, wish.idle_s is not None and not wish.demand, wish.id


class _Round:
    """One placement."""

    def __init__(
        self, wishes: Iterable[Wish], machines: Iterable[Machine], standing: Iterable[Standing], now: datetime
    ) -> None:
        machines, standing = list(machines), list(standing)
        self._wishes = {wish.id: wish for wish in sorted(wishes, key=_rank)}
        self._now = now
        self._living = {machine.host: machine for machine in machines}
        self._all = sorted((each for each in standing if each.host in self._living), key=lambda each: each.id)
        self._rooms = Rooms(machines, standing)
        self._starts: list[Start] = []
        self._drains: dict[UUID, Drain] = {}
        self._serves: list[UUID] = []
        self._slept: list[UUID] = []
        self._woken: list[UUID] = []
        self._unplaced: dict[UUID, str] = {}

    def run(self) -> Placement:
        for wish in list(self._wishes.values()):
            self._find_sleep(wish)
        for found in self._all:
            if reason := self._find_reason(found):
                self._drain(found, reason)
        for wish in self._wishes.values():
            self._drain_surplus(wish)
        for wish_id in list(self._wishes):
            self._fill(self._wishes[wish_id])
        return Placement(
            tuple(self._starts), tuple(self._drains.values()), tuple(self._serves), tuple(self._slept),
            tuple(self._woken), self._unplaced,
        )  # fmt: skip

    def _find_sleep(self, wish: Wish) -> None:
        if wish.asleep and (wish.demand or wish.idle_s is None):
            self._woken.append(wish.id)
            self._wishes[wish.id] = replace(wish, asleep=False)
        elif is_idle(wish, [each for each in self._all if each.wish_id == wish.id], self._now):
            self._sleep(wish, IDLE)

    def _sleep(self, wish: Wish, reason: str) -> None:
        self._slept.append(wish.id)
        self._wishes[wish.id] = replace(wish, asleep=True)
        for found in self._rooms.list_live(wish.id):
            self._drain(found, reason)

    def _find_reason(self, found: Standing) -> str | None:
        """Why a replica must go whatever else stands; None where it need not."""
        wish = self._wishes.get(found.wish_id) if found.wish_id else None
        if wish is None:
            return STOPPED
        if self._living[found.host].draining:
            return HOST_DRAINS
        if not self._rooms.has(found.host, found.device):
            return DEVICE_GONE
        if wish.asleep:
            return IDLE
        return None if found.revision in (wish.revision, wish.next_revision) else SUPERSEDED

    def _drain(self, found: Standing, reason: str) -> None:
        if found.leaves or found.id in self._drains:
            return
        self._drains[found.id] = Drain(found.id, reason)
        if found.id in self._rooms.standing:
            self._rooms.let_go(found.id, replace(found, wanted=Wanted.DRAIN))

    def _drain_surplus(self, wish: Wish) -> None:
        """Of too many those that do not serve yet go first, then the youngest of the fullest device."""
        for revision, wanted in self._list_wanted(wish):
            live = self._rooms.list_live(wish.id, revision)
            while len(live) > wanted:
                gone = max(live, key=self._rank_surplus)
                self._drain(gone, SURPLUS if wanted else MAKES_WAY)
                live.remove(gone)

    def _rank_surplus(self, found: Standing) -> tuple[bool, int, UUID]:
        own = sum(
            (each.host, each.device) == (found.host, found.device)
            for each in self._rooms.list_live(found.wish_id or found.id, found.revision)
        )
        return not found.settled, own, found.id

    def _list_wanted(self, wish: Wish) -> list[tuple[str, int]]:
        """Revisions and how many replicas of each."""
        if wish.asleep:
            return []
        if wish.next_revision is None:
            return [(wish.revision, wish.replicas)]
        serving = wish.replicas
        if wish.drain_first:
            # What is gone already is not begun again before the swap has ended.
            serving = min(serving, len(self._rooms.list_live(wish.id, wish.revision)))
            serving = serving if fit_next(wish, self._rooms) else 0
        return [(wish.revision, serving), (wish.next_revision, wish.replicas)]

    def _fill(self, wish: Wish) -> None:
        """Bring the replicas of a wish to their number."""
        for revision, wanted in self._list_wanted(wish):
            live = self._rooms.list_live(wish.id, revision)
            is_next = revision != wish.revision
            if not is_next:
                self._serves += [found.id for found in live if found.wanted is Wanted.STAND_BY]
            held = wish.hold_next if is_next else wish.next_try_at is not None and wish.next_try_at > self._now
            if not held:
                need_mib = wish.next_need_mib if is_next else wish.need_mib
                self._add(wish, revision, need_mib, wanted - len(live), Wanted.STAND_BY if is_next else Wanted.SERVE)

    def _add(self, wish: Wish, revision: str, need_mib: int | None, number: int, wanted: Wanted) -> None:
        need = need_mib or 0
        for _ in range(number):
            found = self._rooms.find_place(wish, need)
            if found is not None:
                self._rooms.take(found, wish.id, need)
                self._starts.append(Start(wish.id, revision, *found, wanted, need_mib))
            elif not self._wait_for_room(wish, need):
                self._unplaced[wish.id] = self._explain(wish, need)
                return

    def _wait_for_room(self, wish: Wish, need: int) -> bool:
        """Find a device that has room once what leaves has gone, or others that count less; keep it until then."""
        best: tuple[int, Place, list[Standing]] | None = None
        for room in self._rooms.list_candidates(wish):
            at = room.host, room.device
            room_mib = self._rooms.find_free_mib(at) + sum(each.mib for each in self._rooms.list_leaving(at))
            gone: list[Standing] = []
            for other in self._list_lesser(wish, at):
                if room_mib >= need:
                    break
                gone.append(other)
                room_mib += other.mib
            if room_mib >= need and (best is None or len(gone) < best[0]):
                best = len(gone), at, gone
        if best is None:
            return False
        _, at, gone = best
        for other in gone:
            self._displace(wish, other)
        self._rooms.promise(at, need)
        return True

    def _list_lesser(self, wish: Wish, at: Place) -> list[Standing]:
        """What may be drained for a wish there, the least first: of a lower priority, or idle where jobs wait."""
        found = []
        for other in self._rooms.list_on(at):
            owner = self._wishes.get(other.wish_id) if other.wish_id else None
            if other.leaves or owner is None or owner.pinned or owner.id == wish.id or not other.mib:
                continue
            if owner.priority < wish.priority or self._may_sleep_for(owner, wish):
                found.append((owner.priority, owner.demand, other.id.int * -1, other))
        return [each[-1] for each in sorted(found, key=lambda each: each[:3])]

    def _may_sleep_for(self, owner: Wish, wish: Wish) -> bool:
        idle_able = owner.idle_s is not None and not owner.demand
        return idle_able and wish.demand and owner.priority <= wish.priority

    def _displace(self, wish: Wish, other: Standing) -> None:
        owner = self._wishes[other.wish_id] if other.wish_id else None
        reason = f"it makes way for {wish.model}"
        if owner is not None and self._may_sleep_for(owner, wish) and not owner.asleep:
            self._sleep(owner, reason)
        self._drain(other, reason)

    def _explain(self, wish: Wish, need: int) -> str:
        candidates = self._rooms.list_candidates(wish)
        if not candidates:
            labels = ", ".join(f"{name}={value}" for name, value in sorted(wish.labels.items()))
            wanted = {"auto": "any device"}.get(wish.device, f"the device {wish.device}")
            return f"No living host that is not drained has {wanted}{f' and the labels {labels}' if labels else ''}."
        best = max(candidates, key=lambda room: self._rooms.find_free_mib((room.host, room.device)))
        at = best.host, best.device
        free = max(0, int(self._rooms.find_free_mib(at)))
        ids = self._rooms.list_owners(at) - {wish.id}
        others = sorted({self._wishes[each].model for each in ids if each in self._wishes})
        stop = f"Stop {' or '.join(others)}, or shrink" if others else "Shrink"
        return (
            f"{wish.model} needs {need} MiB, and the most that is free are {free} MiB on {best.host}/{best.device}. "
            f"{stop} {wish.model} by {need - free} MiB: fewer slots, or a quantisation."
        )
