"""Replicas as pages show them: the steps of a start with what each took, and since when a replica is as it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batchinfer.admin.session import get_context
from batchinfer.domain.replicas import ReplicaState
from batchinfer.store import pages_fleet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flask import Blueprint

    from batchinfer.services.deployments import Standing
    from batchinfer.store.fleet import Replica

_S = ReplicaState
#: What a start goes through, in its order.
_START = (_S.PLANNED, _S.LOADING, _S.VERIFYING, _S.READY)
#: Seconds of a load by phase, in their order.
PHASES = ("start", "read", "copy", "warm_up", "verify")


@dataclass(frozen=True)
class Step:
    """A state of a start. `place` is done, now, failed or todo; `seconds` is how long it took, or takes by now."""

    state: str
    place: str
    seconds: float | None


@dataclass(frozen=True)
class Placed:
    """A replica with the steps of its start."""

    replica: Replica
    since: datetime
    steps: tuple[Step, ...]

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.replica.ended_at is None

    @property
    def starting(self) -> bool:
        """Whether it does not serve yet."""
        return self.live and self.replica.state in (*_START[:3], _S.STANDING_BY)

    @property
    def phases(self) -> list[tuple[str, float]]:
        """Seconds of its load by phase, as its process measured them."""
        known = self.replica.phases or {}
        return [(name, float(known[name])) for name in PHASES if isinstance(known.get(name), int | float)]

    def part_mib(self, name: str) -> int | None:
        """A part of its plan, in MiB; None where nothing was planned."""
        value = (self.replica.plan or {}).get(name)
        return value if isinstance(value, int) else None


def register(blueprint: Blueprint) -> None:
    """Offer `count_ready` to templates."""
    blueprint.add_app_template_global(count_ready, "count_ready")


def count_ready(standing: Standing) -> int:
    """Replicas of a deployment that serve."""
    return sum(one.state == _S.READY and one.ended_at is None for one in standing.replicas)


def place(replicas: Iterable[Replica]) -> list[Placed]:
    """With the times at which each came to its states, from the events."""
    listed = list(replicas)
    with get_context().db.transaction() as tx:
        moves = pages_fleet.list_moves(tx, [one.id for one in listed], [state.value for state in _S])
    now = datetime.now(UTC)
    return [_place(one, moves.get(one.id, []), now) for one in listed]


def _place(replica: Replica, moves: Sequence[tuple[str, datetime]], now: datetime) -> Placed:
    times: dict[str, datetime] = {}
    for state, at in moves:
        times.setdefault(state, at)
    since = times.get(replica.state) or replica.ended_at or replica.ready_at or replica.created_at
    ended = [state for state in _START if state.value in times]
    failed = replica.state == _S.FAILED and replica.ready_at is None
    return Placed(replica, since, tuple(_walk(replica, times, ended, now, failed=failed)))


def _walk(
    replica: Replica, times: dict[str, datetime], known: Sequence[ReplicaState], now: datetime, *, failed: bool
) -> Iterable[Step]:
    order: list[Any] = list(_START)
    if _S.STANDING_BY.value in times or replica.state == _S.STANDING_BY:
        order.insert(3, _S.STANDING_BY)
    reached = order.index(replica.state) if replica.state in order else max(map(order.index, known), default=0)
    serves = replica.ready_at is not None
    ends = replica.ended_at or now
    for number, state in enumerate(order):
        follows = next((times[later] for later in order[number + 1 :] if later.value in times), ends)
        seconds = (follows - times[state]).total_seconds() if state.value in times else None
        if serves or number < reached:
            yield Step(state.value, "done", None if state == _S.READY else seconds)
        elif number == reached:
            yield Step(state.value, "failed" if failed else "now", seconds)
        else:
            yield Step(state.value, "todo", None)
