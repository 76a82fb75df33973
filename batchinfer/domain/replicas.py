"""The states of a replica, what is wanted of it, and the pauses between loads that fail."""

from __future__ import annotations

from enum import StrEnum


class ReplicaState(StrEnum):
    """Where a model in a process is. `planned`: its keeper has not started the process yet."""

    PLANNED = "planned"
    LOADING = "loading"
    VERIFYING = "verifying"
    STANDING_BY = "standing_by"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """Whether the process is gone, or will never be."""
        return self in (ReplicaState.STOPPED, ReplicaState.FAILED)

    @property
    def holds_memory(self) -> bool:
        """Whether its device must keep room for it."""
        return not self.is_terminal


class Wanted(StrEnum):
    """What a replica is to do, as its row says; the process looks each second."""

    #: Load, verify and take jobs.
    SERVE = "serve"
    #: Load, verify, and wait: a swap is under way.
    STAND_BY = "stand_by"
    #: Take no more jobs, end those that run, and end.
    DRAIN = "drain"


_S = ReplicaState
_ENDS = frozenset({_S.STOPPED, _S.FAILED})
#: From where to where. A worker that was started by hand begins at loading.
MOVES: dict[ReplicaState, frozenset[ReplicaState]] = {
    _S.PLANNED: frozenset({_S.LOADING}) | _ENDS,
    _S.LOADING: frozenset({_S.VERIFYING}) | _ENDS,
    _S.VERIFYING: frozenset({_S.READY, _S.STANDING_BY}) | _ENDS,
    _S.STANDING_BY: frozenset({_S.READY, _S.DRAINING}) | _ENDS,
    _S.READY: frozenset({_S.DRAINING}) | _ENDS,
    _S.DRAINING: _ENDS,
    _S.STOPPED: frozenset(),
    _S.FAILED: frozenset(),
}

#: The pause after the first load that fails, in seconds, doubled with each that follows.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
#: So many loads that fail one after the other open the breaker: after that one is tried every `LONGEST_PAUSE_S`.
BREAKER_FAILURES = 5


def find_pause_s(failures: int) -> float:
    """How long to wait before the next load after so many failures in a row; 0 after none."""
    if failures <= 0:
        return 0.0
    if failures >= BREAKER_FAILURES:
        return LONGEST_PAUSE_S
    return float(min(FIRST_PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S))
