"""Percentiles of buckets against exact ones, and steps of ranges."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest

from batchinfer.domain.histograms import BOUNDS_S, BUCKETS, count_durations, find_bucket, find_percentile
from batchinfer.domain.ranges import RANGES


def test_a_duration_lies_in_the_bucket_whose_bound_it_does_not_pass() -> None:
    assert [find_bucket(seconds) for seconds in (0.0, -1.0, float("nan"), 0.01, 0.0101, 1.0, 1e5)] == [
        0, 0, 0, 0, 1, BOUNDS_S.index(1.0), BUCKETS - 2,
    ]  # fmt: skip
    assert find_bucket(1e9) == find_bucket(float("inf")) == BUCKETS - 1


@pytest.mark.parametrize("part", [0.5, 0.95])
@pytest.mark.parametrize("seed", range(5))
def test_a_percentile_is_in_the_bucket_of_the_exact_one(part: float, seed: int) -> None:
    chance = random.Random(seed)
    durations = sorted(chance.lognormvariate(1.0, 2.0) for _ in range(501))
    exact = durations[round(part * len(durations) + 0.5) - 1]
    found = find_percentile(count_durations(durations), part)
    assert found is not None
    bucket = find_bucket(exact)
    assert (BOUNDS_S[bucket - 1] if bucket else 0.0) <= found <= BOUNDS_S[bucket]


def test_sums_of_histograms_have_the_percentile_of_all_together() -> None:
    first, second = [0.3] * 10, [30.0] * 90
    added = [a + b for a, b in zip(count_durations(first), count_durations(second), strict=True)]
    assert added == count_durations([*first, *second])
    assert find_percentile(added, 0.05) == pytest.approx(0.35)
    assert 20.0 < (find_percentile(added, 0.5) or 0) < 50.0
    assert find_percentile([], 0.5) is None
    assert find_percentile([0] * BUCKETS, 0.5) is None
    assert find_percentile(count_durations([1e9]), 0.5) == BOUNDS_S[-1]


@pytest.mark.parametrize("name", RANGES)
def test_the_steps_of_a_range_end_before_the_present_minute(name: str) -> None:
    found = RANGES[name]
    now = datetime(2026, 3, 1, 12, 0, 31, tzinfo=UTC)
    steps = found.list_steps(now)
    assert len(steps) == found.seconds // found.step_s <= 168
    assert {b - a for a, b in itertools.pairwise(steps)} == {timedelta(seconds=found.step_s)}
    assert steps[-1] < datetime(2026, 3, 1, 12, tzinfo=UTC) <= steps[-1] + timedelta(seconds=found.step_s)
    assert found.find_covered_s(steps[0], now) == found.step_s
    later = now + timedelta(minutes=5)
    assert found.find_covered_s(found.list_steps(later)[-1], later) == min(300.0, found.step_s)
