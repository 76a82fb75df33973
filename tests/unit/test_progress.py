"""How far a batch is, its pace, and whether its deadline will be met: numbers alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from batchinfer.domain.batches import Batch, BatchState, Counts
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.progress import Basis, Pace, measure_progress, own_pace

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def make(status: str = "in_progress", *, hours: float = 1.0, paused: bool = False, **counts: int) -> Batch:
    times: dict[str, Any] = {"in_progress_at": NOW - timedelta(minutes=5)} | ({"paused_at": NOW} if paused else {})
    return Batch(
        UUID(int=1), UUID(int=2), BatchState(status), "/v1/jobs", None, "24h", NOW - timedelta(hours=1),
        NOW + timedelta(hours=hours), Counts(**counts), JobClass.BATCH, times=times,
    )  # fmt: skip


def test_the_four_colours_and_what_was_cancelled_are_all_lines() -> None:
    batch = make(total=100, completed=40, failed=5, expired=2, cancelled=3)
    found = measure_progress(batch, retrying=7, pace=None, now=NOW)
    assert (found.done, found.failed, found.retrying, found.rest, found.cancelled) == (40, 7, 7, 43, 3)
    assert found.share == 0.5
    assert (found.left_s, found.spare_s) == (None, None)


def test_more_retries_than_open_lines_are_not_told() -> None:
    found = measure_progress(make(total=10, completed=8), retrying=50, pace=None, now=NOW)
    assert (found.retrying, found.rest) == (2, 0)
    over = measure_progress(make("cancelled", total=10, completed=8), retrying=50, pace=None, now=NOW)
    assert (over.retrying, over.rest) == (0, 0)


def test_a_pace_is_of_the_time_that_the_batch_has_run() -> None:
    pace = own_pace(make(total=900, completed=300), 300, NOW)
    assert pace == Pace(1.0, Basis.OWN, 300, 300.0)
    later = own_pace(make(total=900, completed=300), 300, NOW + timedelta(hours=2))
    assert later == Pace(0.5, Basis.OWN, 300, 600.0)
    assert own_pace(make(total=900, completed=19), 19, NOW) is None, "a mean of a handful is a guess"


@pytest.mark.parametrize(("hours", "spare_s"), [(1.0, 3000.0), (0.1, -240.0)])
def test_the_deadline_is_met_or_not(hours: float, spare_s: float) -> None:
    found = measure_progress(
        make(total=900, completed=300, hours=hours), retrying=0, pace=Pace(1.0, Basis.OWN, 300, 300.0), now=NOW
    )
    assert (found.left_s, found.spare_s) == (600.0, spare_s)


def test_what_waits_before_it_takes_its_time() -> None:
    pace = Pace(2.0, Basis.MODEL, 1000, 500.0, waiting=400)
    assert measure_progress(make(total=100), retrying=0, pace=pace, now=NOW).left_s == 250.0


@pytest.mark.parametrize("batch", [make(paused=True, total=9), make("finalizing", total=9), make("validating")])
def test_nothing_is_said_of_what_stands_still(batch: Batch) -> None:
    found = measure_progress(batch, retrying=0, pace=Pace(1.0, Basis.OWN, 30, 30.0), now=NOW)
    assert (found.pace, found.left_s, found.spare_s) == (None, None, None)
    assert found.share == 0.0
