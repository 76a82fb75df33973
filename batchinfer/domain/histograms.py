"""Counts of durations in fixed buckets: sums of them are counts again, so that a percentile can be had of any range.

An average cannot be added up like that, and a percentile even less.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: The upper bounds of the buckets in seconds, each included; what is longer than the last is in one more bucket.
BOUNDS_S = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0,
    1_000.0, 2_000.0, 5_000.0, 10_000.0, 20_000.0, 50_000.0, 100_000.0,
)  # fmt: skip
BUCKETS = len(BOUNDS_S) + 1


def find_bucket(seconds: float) -> int:
    """The bucket of a duration, from 0; less than nothing and no number count as nothing."""
    return bisect_left(BOUNDS_S, seconds) if seconds > 0 and not math.isnan(seconds) else 0


def count_durations(durations: Iterable[float]) -> list[int]:
    """How many of them are in each bucket."""
    counts = [0] * BUCKETS
    for seconds in durations:
        counts[find_bucket(seconds)] += 1
    return counts


def find_percentile(counts: Sequence[int], part: float) -> float | None:
    """The duration in seconds that a part (0 to 1) of those counted does not exceed; None where none was counted.

    Within a bucket they are taken to be spread evenly, so that the answer is off by less than the bucket's width. In
    the last bucket, which has no end, it is the bucket's beginning.
    """
    wanted = part * sum(counts)
    if not wanted:
        return None
    below = 0
    for bucket, count in enumerate(counts):
        if below + count >= wanted and count:
            low = BOUNDS_S[bucket - 1] if bucket else 0.0
            high = BOUNDS_S[bucket] if bucket < len(BOUNDS_S) else low
            return low + (high - low) * (wanted - below) / count
        below += count
    return BOUNDS_S[-1]
