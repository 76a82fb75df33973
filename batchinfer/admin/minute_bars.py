"""A bar chart of minutes as plain numbers for inline SVG: readable as text, drawn without a script."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from batchinfer.admin.charts import HEIGHT, WIDTH, round_up

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from batchinfer.store.series import Minute

_GAP = 0.22


@dataclass(frozen=True)
class Bar:
    """A minute: succeeded from the bottom, failed (expired and quarantined too) on top. Heights in units."""

    minute: datetime
    succeeded: int
    failed: int
    x: float
    width: float
    done_height: float
    lost_height: float


@dataclass(frozen=True)
class Chart:
    """Bars under a scale that ends at `top` jobs a minute."""

    bars: tuple[Bar, ...]
    top: int
    total: int


def draw_minutes(minutes: Sequence[Minute], *, until: datetime, count: int) -> Chart:
    """The chart of the last `count` minutes; those without a row are empty. Its scale ends round."""
    last = until.replace(second=0, microsecond=0)
    known = {minute.minute: minute for minute in minutes}
    ended = [
        (at, *_ended(known.get(at))) for at in (last - timedelta(minutes=back) for back in range(count - 1, -1, -1))
    ]
    top = round_up(max(succeeded + failed for _, succeeded, failed in ended))
    step = WIDTH / count
    bars = tuple(
        Bar(
            minute=at,
            succeeded=succeeded,
            failed=failed,
            x=round(place * step + step * _GAP / 2, 2),
            width=round(step * (1 - _GAP), 2),
            done_height=round(HEIGHT * succeeded / top, 2),
            lost_height=round(HEIGHT * failed / top, 2),
        )
        for place, (at, succeeded, failed) in enumerate(ended)
    )
    return Chart(bars, int(top), sum(bar.succeeded + bar.failed for bar in bars))


def _ended(minute: Minute | None) -> tuple[int, int]:
    if minute is None:
        return 0, 0
    return minute.succeeded, minute.failed + minute.expired + minute.quarantined
