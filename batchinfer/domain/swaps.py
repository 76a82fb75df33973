"""A swap: a deployment's next revision is loaded beside the one that serves, is tested, and takes over in one step.

    loading ──> testing ──> switched | rolled_back
       │           │
       └───────────┴──────> failed | cancelled

`rolled_back` is the end of a swap that went back to the revision before. While it loads and is tested, the old revision
serves; only at `switched` and `rolled_back` has anything changed for a job.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from batchinfer.domain.deployments import read_revision, read_seconds
from batchinfer.domain.fields import check_plain, read_flag, read_object, refuse_unknown, require
from batchinfer.domain.goldens import GoldenPrompt, parse_goldens
from batchinfer.domain.replicas import ReplicaState, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchinfer.domain.limits import Limits


class SwapState(StrEnum):
    """Where a swap is."""

    LOADING = "loading"
    TESTING = "testing"
    SWITCHED = "switched"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended, however it did."""
        return not MOVES[self]


_S = SwapState
_ENDS = frozenset({_S.SWITCHED, _S.ROLLED_BACK, _S.FAILED, _S.CANCELLED})
#: From where to where. A replica that is planned anew, because its host went, leads from testing back to loading.
MOVES: dict[SwapState, frozenset[SwapState]] = {
    _S.LOADING: frozenset({_S.TESTING}) | _ENDS,
    _S.TESTING: frozenset({_S.LOADING}) | _ENDS,
    _S.SWITCHED: frozenset(),
    _S.ROLLED_BACK: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}


#: Seconds that a swap has unless it says otherwise: eight times the longest start that an engine is given, vLLM's.
WITHIN_S = 7200


@dataclass(frozen=True)
class SwapRequest:
    """What an operator asks: the revision, the prompts that it must answer rightly first, whether the old one may be
    drained before the new one is loaded, where both do not fit, and the seconds after which the swap has failed."""

    revision: str
    golden: tuple[GoldenPrompt, ...] = ()
    drain_first: bool = False
    within_s: int = WITHIN_S


class Standing(Protocol):
    """What is asked of a replica's row: its state, what is wanted of it, and the error that it ended with."""

    @property
    def state(self) -> str: ...
    @property
    def wanted(self) -> str: ...
    @property
    def error(self) -> dict[str, Any] | None: ...


@dataclass(frozen=True)
class Step:
    """What a swap does next: None stays where it is. `error` says why it fails."""

    to: SwapState | None
    error: dict[str, Any] | None = None


def parse_swap(body: object, limits: Limits) -> SwapRequest:
    """From decoded JSON: `revision`, `golden`, `drain_first` and `within_s`. Raises BadRequest, BadImage."""
    given = _open(body, ("revision", "golden", *_SHARED))
    return SwapRequest(
        revision=read_revision(require(given, "revision", "Say which one is to serve."), "revision"),
        golden=parse_goldens(given["golden"], limits) if given.get("golden") is not None else (),
        drain_first=_read_drain(given),
        within_s=_read_within(given),
    )


def parse_rollback(body: object) -> SwapRequest:
    """From decoded JSON: `drain_first` and `within_s`; the revision is the one before. Raises BadRequest."""
    given = _open(body, _SHARED)
    return SwapRequest("", drain_first=_read_drain(given), within_s=_read_within(given))


#: What swaps and rollbacks have both.
_SHARED = ("drain_first", "within_s")


def _open(body: object, fields: tuple[str, ...]) -> dict[str, Any]:
    given = read_object(body, "body")
    refuse_unknown(given, fields)
    check_plain(given)
    return given


def _read_drain(given: dict[str, Any]) -> bool:
    value = given.get("drain_first")
    return False if value is None else read_flag(value, "drain_first")


def _read_within(given: dict[str, Any]) -> int:
    value = given.get("within_s")
    return WITHIN_S if value is None else read_seconds(value, "within_s")


def decide(
    now: SwapState,
    wanted: int,
    replicas: Sequence[Standing],
    *,
    rollback: bool = False,
    overdue_s: int | None = None,
) -> Step:
    """What follows from the replicas of the next revision that were planned since the swap began, ended ones too.

    One that failed fails the swap. It switches once as many as are `wanted` stand by, golden prompts answered, and none
    is on its way; a deployment of no replicas at once. One that ended in order is planned anew by the placement. What
    has not switched after the time that it had (`overdue_s` seconds, None while there is some left) has failed.
    """
    if now.is_terminal:
        return Step(None)
    if failed := next((one for one in replicas if one.state == ReplicaState.FAILED), None):
        return Step(SwapState.FAILED, failed.error or dict(_NO_REASON))
    living = [one for one in replicas if one.wanted != Wanted.DRAIN and not ReplicaState(one.state).is_terminal]
    states = Counter(one.state for one in living)
    standing = states[ReplicaState.STANDING_BY] + states[ReplicaState.READY]
    if standing >= wanted and standing == len(living):
        return Step(SwapState.ROLLED_BACK if rollback else SwapState.SWITCHED)
    if overdue_s is not None:
        return Step(SwapState.FAILED, _make_overdue(overdue_s, standing, wanted))
    moving = states[ReplicaState.PLANNED] + states[ReplicaState.LOADING]
    due = SwapState.TESTING if len(living) >= wanted and not moving else SwapState.LOADING
    return Step(due if due is not now else None)


def _make_overdue(after_s: int, standing: int, wanted: int) -> dict[str, Any]:
    return {
        "message": f"After {after_s:,} s {standing} of {wanted} replicas of the new revision stood by. The old one "
        "goes on serving. See whether there was room for it and what its replicas did, or swap again with a longer "
        "`within_s`.",
        "type": "server_error", "param": None, "code": "swap_overdue",
    }  # fmt: skip


_NO_REASON = {
    "message": "A replica of the new revision ended before it stood by, and did not say why.",
    "type": "server_error", "param": None, "code": "load_failed",
}  # fmt: skip
