"""What placement reads: machines with their devices, wishes, and the replicas that stand. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

from batchinfer.domain.replicas import ReplicaState, Wanted

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Room:
    """A device of a host. `kind` is cpu or cuda; `total_mib` None where nobody knows: then anything fits."""

    host: str
    device: str
    kind: str
    total_mib: int | None = None


@dataclass(frozen=True)
class Machine:
    """A host whose keeper lives. On a draining one nothing is placed."""

    host: str
    rooms: tuple[Room, ...]
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS)
    draining: bool = False


@dataclass(frozen=True)
class Wish:
    """A deployment that is not stopped, as placement sees it. `need_mib` is of one replica; None: nobody knows."""

    id: UUID
    model: str
    revision: str
    replicas: int = 1
    #: auto, cpu, cuda, or a device by name.
    device: str = "auto"
    need_mib: int | None = None
    #: What a host's labels must hold.
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS)
    priority: int = 0
    #: Never drained for another or for being idle.
    pinned: bool = False
    idle_s: int | None = None
    asleep: bool = False
    #: Whether jobs of the model wait or run.
    demand: bool = False
    #: No load begins before.
    next_try_at: datetime | None = None
    last_used_at: datetime | None = None
    #: Loaded beside what serves, while a swap is under way, and what one of its replicas needs.
    next_revision: str | None = None
    next_need_mib: int | None = None
    #: Where both do not fit, what serves goes first.
    drain_first: bool = False
    #: A replica of the next revision failed a moment ago: none is begun now.
    hold_next: bool = False


@dataclass(frozen=True)
class Standing:
    """A replica that has not ended. `mib` is what it takes of its device, measured, else planned, else 0."""

    id: UUID
    wish_id: UUID | None
    revision: str
    host: str
    device: str
    state: ReplicaState
    wanted: Wanted = Wanted.SERVE
    mib: int = 0
    #: When it was ready, else when it was planned.
    since: datetime | None = None

    @property
    def leaves(self) -> bool:
        """Whether it goes, and only its memory counts."""
        return self.wanted is Wanted.DRAIN or self.state is ReplicaState.DRAINING

    @property
    def settled(self) -> bool:
        """Whether its load is over."""
        return self.state in (ReplicaState.READY, ReplicaState.STANDING_BY)


@dataclass(frozen=True)
class Start:
    """A replica to be planned on a device."""

    wish_id: UUID
    revision: str
    host: str
    device: str
    wanted: Wanted
    mib: int | None


@dataclass(frozen=True)
class Drain:
    """A replica that is to go, and why."""

    replica_id: UUID
    reason: str


@dataclass(frozen=True)
class Placement:
    """What is to be done, in the order of priority; nothing where all is as it should be."""

    starts: tuple[Start, ...] = ()
    drains: tuple[Drain, ...] = ()
    #: Replicas that stood by, of the revision that serves now.
    serves: tuple[UUID, ...] = ()
    #: Wishes to be unloaded for being idle, and to be loaded again for their jobs.
    slept: tuple[UUID, ...] = ()
    woken: tuple[UUID, ...] = ()
    #: Why a wish has fewer replicas than it should, as a sentence; one that only waits for a drain is not here.
    unplaced: dict[UUID, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.starts or self.drains or self.serves or self.slept or self.woken)
