"""SQL that adds up histograms: arrays of `domain.histograms.BUCKETS` counts, or empty ones."""

from __future__ import annotations

from batchinfer.domain.histograms import BUCKETS
from batchinfer.store.series_tables import COUNTERS, HISTOGRAMS

_PLACES = range(1, BUCKETS + 1)
#: Every column of a series that is added up.
COLUMNS = ", ".join((*COUNTERS, *HISTOGRAMS))


def add_excluded(table: str) -> str:
    """What DO UPDATE sets where a row is there already: each column raised by what comes."""
    return ", ".join(
        [*(f"{name} = {table}.{name} + excluded.{name}" for name in COUNTERS), *(_add(table, n) for n in HISTOGRAMS)]
    )


def _add(table: str, name: str) -> str:
    # Most changes bring no durations.
    sums = ", ".join(f"coalesce({table}.{name}[{place}], 0) + excluded.{name}[{place}]" for place in _PLACES)
    return f"{name} = CASE WHEN excluded.{name} = '{{}}' THEN {table}.{name} ELSE ARRAY[{sums}] END"


def sum_columns() -> str:
    """Every column added up over the rows of a group."""
    return ", ".join([*(f"CAST(sum({name}) AS bigint) AS {name}" for name in COUNTERS), *map(sum_buckets, HISTOGRAMS)])


def sum_buckets(name: str) -> str:
    """A histogram added up over the rows of a group; empty where all are."""
    sums = ", ".join(f"coalesce(sum({name}[{place}]), 0)" for place in _PLACES)
    return f"CASE WHEN bool_and({name} = '{{}}') THEN '{{}}' ELSE CAST(ARRAY[{sums}] AS int[]) END AS {name}"
