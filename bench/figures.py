"""Figures over repeated runs: medians with their range, ratios, and percentiles of latencies."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """The median of several runs, the least and the greatest of them, and how many there were."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Raises ValueError where there is no value."""
        if not values:
            raise ValueError("a figure needs at least one run.")
        return cls(statistics.median(values), min(values), max(values), len(values))


def percentile(values: Sequence[float], share: int) -> float:
    """The value that `share` percent (1 to 99) of the values do not exceed, interpolated. Raises ValueError."""
    if not values or not 1 <= share <= 99:
        raise ValueError("a percentile needs values, and a share from 1 to 99.")
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def find_best(rates: Mapping[str, Figure], among: Sequence[str]) -> str | None:
    """Who of `among` has the highest median; None where none of them ran."""
    found = [name for name in among if name in rates]
    return max(found, key=lambda name: rates[name].median) if found else None


def ratios(rates: Mapping[str, Figure], against: str | None) -> dict[str, float]:
    """Each median as a multiple of that of `against`; empty where that one did not run."""
    if against is None or against not in rates or rates[against].median <= 0:
        return {}
    return {name: figure.median / rates[against].median for name, figure in rates.items()}
