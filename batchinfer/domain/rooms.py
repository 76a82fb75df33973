"""The devices of all living hosts, what is free on each, and which of them a replica is put on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

from batchinfer.domain.placing_facts import Machine, Room, Standing, Wish

Place = tuple[str, str]


class Rooms:
    """A ledger that is written while placement goes on. A replica that leaves keeps its memory until it has ended."""

    def __init__(self, machines: Iterable[Machine], standing: Iterable[Standing]) -> None:
        self._machines = sorted(machines, key=lambda machine: machine.host)
        self._rooms = {(room.host, room.device): room for machine in self._machines for room in machine.rooms}
        self.standing = {found.id: found for found in standing if (found.host, found.device) in self._rooms}
        #: MiB for replicas planned in this round, or promised once others have gone.
        self._taken: dict[Place, int] = defaultdict(int)
        self._new: dict[Place, list[UUID]] = defaultdict(list)
        for found in self.standing.values():
            self._taken[found.host, found.device] += found.mib

    def has(self, host: str, device: str) -> bool:
        """Whether a living host has such a device."""
        return (host, device) in self._rooms

    def list_live(self, wish_id: UUID, revision: str | None = None) -> list[Standing]:
        """What stands of a wish and does not leave, oldest first."""
        found = [each for each in self.standing.values() if each.wish_id == wish_id and not each.leaves]
        return sorted((each for each in found if revision in (None, each.revision)), key=lambda each: each.id)

    def list_leaving(self, place: Place) -> list[Standing]:
        """What leaves a device."""
        return [found for found in self.list_on(place) if found.leaves]

    def list_on(self, place: Place) -> list[Standing]:
        """All that stands on a device, oldest first."""
        found = [each for each in self.standing.values() if (each.host, each.device) == place]
        return sorted(found, key=lambda each: each.id)

    def list_owners(self, place: Place) -> set[UUID]:
        """Wishes whose replicas stay on a device, or are planned there."""
        stay = {each.wish_id for each in self.list_on(place) if not each.leaves and each.wish_id is not None}
        return stay | set(self._new[place])

    def let_go(self, replica_id: UUID, leaving: Standing) -> None:
        """Write that a replica leaves."""
        self.standing[replica_id] = leaving

    def take(self, place: Place, wish_id: UUID, mib: int) -> None:
        """A replica is planned there."""
        self._taken[place] += mib
        self._new[place].append(wish_id)

    def promise(self, place: Place, mib: int) -> None:
        """Keep room for a replica that comes when others have gone."""
        self._taken[place] += mib

    def find_free_mib(self, place: Place) -> float:
        """What may still be planned there; without end where nobody knows what the device has."""
        total = self._rooms[place].total_mib
        return float("inf") if total is None else total - self._taken[place]

    def count_on(self, room: Room, wish_id: UUID | None = None, *, host: bool = False) -> int:
        """Replicas, planned ones too, on a device or its whole host: of one wish those that stay, of all any."""

        def here(place: Place) -> bool:
            return place[0] == room.host and (host or place[1] == room.device)

        stand = [each for each in self.standing.values() if here((each.host, each.device))]
        if wish_id is not None:
            stand = [each for each in stand if each.wish_id == wish_id and not each.leaves]
        new = [found for place, ids in self._new.items() if here(place) for found in ids]
        return len(stand) + sum(wish_id in (None, found) for found in new)

    def list_candidates(self, wish: Wish) -> list[Room]:
        """Devices that a wish may go to, the best first: those with the fewest of its own, then the emptiest."""
        fitting = [
            room
            for machine in self._machines
            if not machine.draining and all(machine.labels.get(name) == value for name, value in wish.labels.items())
            for room in machine.rooms
            if _may_use(wish.device, room)
        ]
        if wish.device == "auto" and any(room.kind == "cuda" for room in fitting):
            fitting = [room for room in fitting if room.kind == "cuda"]
        return sorted(fitting, key=lambda room: self._rank(room, wish.id))

    def find_place(self, wish: Wish, need_mib: int) -> Place | None:
        """The best device with so much room; None where none has it."""
        for room in self.list_candidates(wish):
            if need_mib <= self.find_free_mib((room.host, room.device)):
                return room.host, room.device
        return None

    def copy(self) -> Rooms:
        """The same, to try something out."""
        twin = Rooms(self._machines, self.standing.values())
        twin._taken, twin._new = self._taken.copy(), defaultdict(list, {at: list(ids) for at, ids in self._new.items()})
        return twin

    def _rank(self, room: Room, wish_id: UUID) -> tuple[int, int, int, float, str, str]:
        free_mib = self.find_free_mib((room.host, room.device))
        own, own_on_host = self.count_on(room, wish_id), self.count_on(room, wish_id, host=True)
        return own, own_on_host, self.count_on(room), -free_mib, room.host, room.device


def _may_use(device: str, room: Room) -> bool:
    return device in ("auto", room.kind, room.device)


def fits_beside(wish: Wish, machines: Sequence[Machine], standing: Sequence[Standing]) -> bool:
    """Whether all replicas of the next revision find room while those that serve stay."""
    return fit_next(wish, Rooms(machines, standing))


def fit_next(wish: Wish, rooms: Rooms) -> bool:
    """The same on a ledger, which stays as it is."""
    if wish.next_revision is None:
        return True
    twin = rooms.copy()
    need_mib = wish.next_need_mib or 0
    for _ in range(wish.replicas - len(twin.list_live(wish.id, wish.next_revision))):
        place = twin.find_place(wish, need_mib)
        if place is None:
            return False
        twin.take(place, wish.id, need_mib)
    return True
