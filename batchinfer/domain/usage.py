"""What jobs used, added up: by day, model, key and schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from uuid import UUID

#: What usage can be added up by.
GROUPS = ("day", "model", "key", "schedule")


@dataclass(frozen=True)
class UsageRow:
    """What a group of results used. A part of the key that was not asked for, or that there is none of, is None."""

    day: date | None
    model: str | None
    key_id: UUID | None
    schedule_id: UUID | None
    jobs: int
    prompt_tokens: int
    completion_tokens: int
    image_tokens: int
    cached_tokens: int
    images: int
    #: Microseconds of the device.
    device_us: int


def measure_device_us(timings: Mapping[str, float]) -> int:
    """A result's share of its device, in microseconds: prefill and decoding by the rows that shared them."""
    return _as_us(_compute_s(timings) / max(timings.get("rows", 1.0), 1.0))


def measure_row_us(timings: Mapping[str, float]) -> int:
    """The microseconds that a result spent on its device, whoever shared it: over `measure_device_us` of the same
    results, the mean of rows a step."""
    return _as_us(_compute_s(timings))


def _compute_s(timings: Mapping[str, float]) -> float:
    return timings.get("prefill", 0.0) + timings.get("decoding", 0.0)


def _as_us(seconds: float) -> int:
    return round(seconds * 1e6) if math.isfinite(seconds) and seconds > 0 else 0
