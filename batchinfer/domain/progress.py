"""How far a batch is: its lines in four parts, its pace, the time left, and whether its deadline will be met."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from batchinfer.domain.batches import TERMINAL, BatchState

if TYPE_CHECKING:
    from datetime import datetime

    from batchinfer.domain.batches import Batch

#: Lines that a pace rests on at least: a mean of a handful is a guess.
LEAST_LINES = 20
#: Minutes of which the pace of a batch is taken.
PACE_MINUTES = 10


class Basis(StrEnum):
    """What a pace rests on."""

    #: The lines of this batch that ended in the last PACE_MINUTES.
    OWN = "own"
    #: Jobs of its model that succeeded in the last day, as a dry run reckons; the batch is too young.
    MODEL = "model"


@dataclass(frozen=True)
class Pace:
    """Lines a second, and the `lines` and `seconds` that were measured; `waiting` jobs go before this batch's."""

    per_s: float
    basis: Basis
    lines: int
    seconds: float
    waiting: int = 0


@dataclass(frozen=True)
class Progress:
    """A batch's lines: `done` were answered, `failed` ended otherwise (expired too), `retrying` failed and are tried
    again, `rest` is still to do. What was cancelled is in none of them. `share` of all is from 0 to 1.
    """

    total: int
    done: int
    failed: int
    retrying: int
    rest: int
    cancelled: int
    pace: Pace | None = None
    #: Seconds until the last line has ended; None where nothing can be said.
    left_s: float | None = None
    #: Seconds from then to the deadline, below 0 where it will be missed; None where nothing can be said.
    spare_s: float | None = None

    @property
    def share(self) -> float:
        """Of its lines those that have ended."""
        return (self.done + self.failed + self.cancelled) / self.total if self.total else 0.0


def own_pace(batch: Batch, recent: int, now: datetime) -> Pace | None:
    """The pace of a batch of which `recent` lines ended in the last PACE_MINUTES; None where these are too few."""
    began = batch.times.get("in_progress_at", batch.created_at)
    seconds = _bound_seconds((now - began).total_seconds())
    return Pace(recent / seconds, Basis.OWN, recent, seconds) if recent >= LEAST_LINES else None


def is_at_risk(*, open_lines: int, recent: int, ran_s: float, left_s: float) -> bool:
    """Whether a batch that runs since `ran_s` seconds will miss its deadline in `left_s`, at the pace of the `recent`
    lines of the last PACE_MINUTES; where these are too few, whether so many minutes are all that is left."""
    if open_lines <= 0:
        return False
    if recent < LEAST_LINES:
        return left_s < 60.0 * PACE_MINUTES
    return open_lines * _bound_seconds(ran_s) / recent > left_s


def _bound_seconds(ran_s: float) -> float:
    """The time of which a pace is taken."""
    return min(60.0 * PACE_MINUTES, max(ran_s, 1.0))


def measure_progress(batch: Batch, *, retrying: int, pace: Pace | None, now: datetime) -> Progress:
    """How far a batch is at an aware moment. Nothing is said of the end of one that is paused, or does not run."""
    counts = batch.counts
    open_lines = max(0, counts.total - counts.ended) if batch.status not in TERMINAL else 0
    retrying = min(retrying, open_lines)
    runs = batch.status is BatchState.IN_PROGRESS and "paused_at" not in batch.times
    left_s = (open_lines + pace.waiting) / pace.per_s if runs and pace is not None and pace.per_s > 0 else None
    return Progress(
        total=counts.total,
        done=counts.completed,
        failed=counts.failed + counts.expired,
        retrying=retrying,
        rest=open_lines - retrying,
        cancelled=counts.cancelled,
        pace=pace if runs else None,
        left_s=left_s,
        spare_s=None if left_s is None else (batch.expires_at - now).total_seconds() - left_s,
    )
