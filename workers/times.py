"""How long parts of the work took, counted in buckets by name, for metrics."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from batchinfer.domain.histograms import BOUNDS_S, BUCKETS, find_bucket

if TYPE_CHECKING:
    from batchinfer.observe.metrics import Sheet


class Times:
    """Durations since the start, under the labels of one histogram. Safe for threads."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def note(self, seconds: float, *labels: str) -> None:
        """One more."""
        with self._lock:
            self._counts.setdefault(labels, [0] * BUCKETS)[find_bucket(seconds)] += 1
            self._sums[labels] = self._sums.get(labels, 0.0) + max(seconds, 0.0)

    def tell(self, sheet: Sheet) -> None:
        """Put them on a page."""
        with self._lock:
            known = [(labels, list(counts), self._sums[labels]) for labels, counts in self._counts.items()]
        for labels, counts, sum_s in known:
            sheet.add_histogram(self._metric, BOUNDS_S, counts, sum_s, *labels)
