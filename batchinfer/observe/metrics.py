"""Samples of one scrape, gathered by name and written in Prometheus's text format. A name that is not listed, or labels
that do not fit it, are refused."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from batchinfer.observe.metric_list import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchinfer.observe.metric_list import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Family = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily
_FAMILIES: dict[str, type[Family]] = {
    "gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily,
}  # fmt: skip


class Sheet:
    """What one scrape tells. For one thread."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._notes: list[str] = []

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """A value with its labels, in the order in which they are listed. None is not told: it is not known."""
        family = self._find(name, labels)
        if value is not None and not isinstance(family, HistogramMetricFamily):
            family.add_metric(list(labels), float(value))

    def add_histogram(
        self, name: str, bounds: Sequence[float], counts: Sequence[int], sum_s: float | None, *labels: str
    ) -> None:
        """Counts by bucket: one for each bound, which it includes, and one for what is above the last."""
        family = self._find(name, labels)
        if isinstance(family, HistogramMetricFamily):
            edges = [*(f"{bound:g}" for bound in bounds), "+Inf"]
            family.add_metric(list(labels), list(zip(edges, accumulate(counts), strict=True)), sum_s)

    def note(self, line: str) -> None:
        """A line for people, which Prometheus passes over."""
        self._notes.append(line.replace("\n", " "))

    def collect(self) -> Iterator[Family]:
        """For prometheus_client; what has no sample is left out."""
        return (family for family in self._families.values() if family.samples)

    def render(self) -> bytes:
        """The page."""
        notes = "".join(f"# batchinfer: {line}\n" for line in self._notes)
        return notes.encode() + generate_latest(self)

    def _find(self, name: str, labels: Sequence[str]) -> Family:
        metric: Metric = METRICS[name]
        if len(labels) != len(metric.labels):
            raise ValueError(f"{name} has the labels {metric.labels}, not {len(labels)} of them")
        if name not in self._families:
            self._families[name] = _FAMILIES[metric.kind](name, metric.meaning, labels=metric.labels)
        return self._families[name]
