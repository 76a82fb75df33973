"""Series as charts read them: what happened and how it stood, added up or averaged by steps. Never the jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.store.buckets import COLUMNS, sum_columns
from batchinfer.store.gauges import LOOKED
from batchinfer.store.rollup import ROLLED

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Point:
    """What happened in a step, all models together. `waits` and `runs` are histograms, empty where nothing ended."""

    at: datetime
    submitted: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    quarantined: int
    retried: int
    lost: int
    prompt_tokens: int
    completion_tokens: int
    images: int
    reused: int
    row_us: int
    device_us: int
    waits: list[int]
    runs: list[int]


@dataclass(frozen=True)
class Depth:
    """How many of a model's jobs waited and ran in a step, on average; the greatest age of the oldest that waited.

    Model "" says that it was looked at all.
    """

    at: datetime
    model: str
    waiting: float
    running: float
    oldest_s: float | None


@dataclass(frozen=True)
class Load:
    """How a device stood in a step: MiB in all and held by replicas, and the part of the time that it computed for
    them. `taken_mib` and `use` are the same with all processes on it, as measured; None where nobody could."""

    at: datetime
    host: str
    device: str
    total_mib: float | None
    used_mib: float
    busy: float
    taken_mib: float | None = None
    use: float | None = None


_STEP = "date_bin(make_interval(secs => :step_s), at, timestamptz '2000-01-01 00:00:00+00')"
#: Up to when hours were made; without `hourly` nothing is read of them.
_ROLLED = """
    rolled AS (SELECT CASE WHEN :hourly THEN coalesce((SELECT ticked_at FROM ticks WHERE name = :rolled), '-infinity')
                      ELSE '-infinity' END AS until)
"""
_POINTS = text(
    f"""
    WITH {_ROLLED},
    parts AS (
        SELECT minute AS at, {COLUMNS} FROM minutes
        WHERE tenant_id = :tenant_id AND minute >= greatest(:since, (SELECT until FROM rolled)) AND minute < :until
        UNION ALL
        SELECT hour, {COLUMNS} FROM hours
        WHERE tenant_id = :tenant_id AND hour >= :since AND hour < least(:until, (SELECT until FROM rolled)))
    SELECT {_STEP} AS at, {sum_columns()} FROM parts GROUP BY 1 ORDER BY 1
    """  # noqa: S608 - made of constants
)
#: Gauges of minutes, and of hours as far as those were made.
_GAUGES = """(
    (span_s = 60 AND at >= greatest(:since, (SELECT until FROM rolled)) AND at < :until)
    OR (span_s = 3600 AND at >= :since AND at < least(:until, (SELECT until FROM rolled))))"""
_DEPTHS = text(
    f"""
    WITH {_ROLLED},
    parts AS (SELECT {_STEP} AS step, at, tenant_id, model, waiting, running, oldest_s FROM queue_gauges
              WHERE tenant_id IN (:tenant_id, :looked) AND {_GAUGES}),
    looked AS (SELECT step, count(*) AS times FROM parts WHERE tenant_id = :looked GROUP BY step)
    SELECT step AS at, model, sum(waiting) / times AS waiting, sum(running) / times AS running,
           max(oldest_s) AS oldest_s
    FROM parts JOIN looked USING (step) GROUP BY step, times, model ORDER BY step, model
    """  # noqa: S608 - made of constants
)
_LOADS = text(
    f"""
    WITH {_ROLLED}
    SELECT {_STEP} AS at, host, device, max(total_mib) AS total_mib, avg(used_mib) AS used_mib, avg(busy) AS busy,
           avg(taken_mib) AS taken_mib, avg(use) AS use
    FROM device_gauges WHERE {_GAUGES} GROUP BY 1, host, device ORDER BY 1, host, device
    """  # noqa: S608 - made of constants
)


@dataclass(frozen=True)
class Window:
    """From `since` to before `until`, in steps; `hourly` where hours are to be read as far as they were made."""

    since: datetime
    until: datetime
    step_s: int
    hourly: bool


def list_points(tx: Transaction, tenant_id: UUID, window: Window) -> list[Point]:
    """A tenant's steps in which anything happened, oldest first."""
    return [Point(**row._mapping) for row in tx.execute(_POINTS, _values(window, tenant_id=tenant_id))]


def list_depths(tx: Transaction, tenant_id: UUID, window: Window) -> list[Depth]:
    """A tenant's queue by step and model; a step in which nobody looked is missing, a model without jobs too."""
    values = _values(window, tenant_id=tenant_id, looked=LOOKED)
    return [Depth(**row._mapping) for row in tx.execute(_DEPTHS, values)]


def list_loads(tx: Transaction, window: Window) -> list[Load]:
    """Every device by step."""
    return [Load(**row._mapping) for row in tx.execute(_LOADS, _values(window))]


def _values(window: Window, **more: object) -> dict[str, object]:
    return {**vars(window), "rolled": ROLLED, **more}
