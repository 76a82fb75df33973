"""Cron lines in words of two languages, and what a change of clocks does to a schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from batchinfer.admin.cron_words import say_timing
from batchinfer.domain.timing import Timing, find_clock_change


@pytest.mark.parametrize(
    ("cron", "english", "chinese"),
    [
        ("30 2 * * 1-5", "At 02:30 on Monday through Friday", "在 02:30, 星期一 到 星期五"),
        ("0 0 1 1 *", "At 00:00 on January 1", "在 00:00, 每月的 1 号, 仅在 一月"),
        ("0 22 * * 5L", "At 22:00 on the last Friday of the month", "在 22:00, 每月的最后一个 星期五"),
    ],
)
def test_a_line_is_told_in_the_language_of_the_page(cron: str, english: str, chinese: str) -> None:
    timing = Timing(cron, "Asia/Shanghai")
    assert say_timing(timing, "en") == f"{english} (Asia/Shanghai)"
    assert say_timing(timing, "zh") == f"{chinese}（Asia/Shanghai）"


def test_what_the_chinese_words_would_get_wrong_is_told_in_english() -> None:
    timing = Timing("0 0 */2 * 1", "UTC")
    assert say_timing(timing, "zh") == say_timing(timing, "en")


@pytest.mark.parametrize(
    ("after", "shift_h", "fires"),
    [
        (datetime(2026, 12, 1, tzinfo=UTC), 1, [datetime(2027, 3, 28, 1, 0, tzinfo=UTC)]),
        (datetime(2027, 6, 1, tzinfo=UTC), -1, [datetime(2027, 10, 31, 0, 30, tzinfo=UTC)]),
    ],
)
def test_a_change_of_clocks_says_when_that_day_fires(after: datetime, shift_h: int, fires: list[datetime]) -> None:
    change = find_clock_change(Timing("30 2 * * *", "Europe/Berlin"), after)
    assert change is not None
    assert change.shift == timedelta(hours=shift_h)
    assert change.at == fires[0].replace(hour=1, minute=0)
    assert list(change.instants) == fires


def test_there_is_nothing_to_say_where_clocks_stand_still_or_it_does_not_fire() -> None:
    after = datetime(2026, 12, 1, tzinfo=UTC)
    assert find_clock_change(Timing("30 2 * * *", "Asia/Shanghai"), after) is None
    assert find_clock_change(Timing("30 2 * * 1-5", "Europe/Berlin"), after) is None
