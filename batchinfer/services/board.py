"""What the first page shows of a range of time: series by step, and the numbers of now. Never read from jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.store import backlog, points, series
from batchinfer.store.points import Window
from batchinfer.store.session import read_now

if TYPE_CHECKING:
    from datetime import datetime

    from batchinfer.domain.ranges import Range
    from batchinfer.services.context import Caller, Context
    from batchinfer.store.points import Depth, Load, Point
    from batchinfer.store.series import LastHour, Waiting

#: Jobs in the queue up to which the queue itself is counted; of a longer one the last look at it is shown.
COUNTED_JOBS = 10_000


@dataclass(frozen=True)
class Board:
    """Series of a tenant by the beginnings of their steps; devices are the installation's."""

    range: Range
    now: datetime
    steps: list[datetime]
    points: list[Point]
    depths: list[Depth]
    loads: list[Load]


@dataclass(frozen=True)
class Standing:
    """How a tenant's queue stands now. `sampled_at` is set where the queue is too long to be counted for a page: then
    `waiting` is what was seen at that time, by model."""

    #: Jobs that have not ended; exact whatever the queue's length.
    jobs: int
    waiting: list[Waiting]
    sampled_at: datetime | None
    hour: LastHour

    @property
    def running(self) -> int:
        """Jobs that a model worker has."""
        return sum(row.running for row in self.waiting if row.kind == "infer")

    @property
    def preparing(self) -> int:
        """Jobs whose pictures a CPU worker has or is to check."""
        return sum(row.waiting + row.running for row in self.waiting if row.kind == "prepare")

    @property
    def rendering(self) -> int:
        """Documents whose pages are not all made."""
        return sum(row.waiting + row.running for row in self.waiting if row.kind == "render")

    @property
    def oldest_s(self) -> float | None:
        """Seconds since the oldest that waits came; None where nothing waits."""
        return max((row.oldest_s for row in self.waiting if row.oldest_s is not None), default=None)


def read_board(ctx: Context, caller: Caller, span: Range) -> Board:
    """The series of a range up to the present minute, which is in none of its steps."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        now = read_now(tx)
        steps = span.list_steps(now)
        window = Window(steps[0], span.find_end(now), span.step_s, span.hourly)
        return Board(
            span,
            now,
            steps,
            points.list_points(tx, caller.tenant_id, window),
            points.list_depths(tx, caller.tenant_id, window),
            points.list_loads(tx, window),
        )


def read_standing(ctx: Context, caller: Caller) -> Standing:
    """The queue now, and what ended in the last hour, however long the one and however many the other."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        jobs = backlog.count_waiting(tx, caller.tenant_id)
        hour = series.read_last_hour(tx, caller.tenant_id)
        if jobs <= COUNTED_JOBS:
            return Standing(jobs, series.count_queue(tx, caller.tenant_id), None, hour)
        sampled_at, waiting = series.read_sampled_queue(tx, caller.tenant_id)
        return Standing(jobs, waiting, sampled_at, hour)
