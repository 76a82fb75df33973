"""When schedules fire: cron lines across changes of clocks, outages, jitter, and what is refused at declaration."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.domain.ids import new_id
from batchinfer.domain.timing import (
    MAX_MISSED,
    MAX_RUN_ALL,
    AtDeadline,
    Misfire,
    Overlap,
    Timing,
    choose_due,
    delay_start,
    explain,
    find_next,
    list_next,
    parse_timing,
)
from batchinfer.errors import BadRequest

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTLY = Timing("30 2 * * *", "Europe/Berlin")
HOURLY = Timing("0 * * * *", "Europe/Berlin")
GRACE = timedelta(minutes=5)


def shown(instants: list[datetime]) -> list[str]:
    return [instant.astimezone(BERLIN).strftime("%m-%d %H:%M %z") for instant in instants]


def test_a_time_that_the_clocks_skip_fires_once_after_the_gap() -> None:
    found = list_next(NIGHTLY, datetime(2026, 3, 28, 12, tzinfo=BERLIN), 2)
    assert shown(found) == ["03-29 03:00 +0200", "03-30 02:30 +0200"]


def test_a_time_that_comes_twice_fires_once() -> None:
    found = list_next(NIGHTLY, datetime(2026, 10, 24, 12, tzinfo=BERLIN), 2)
    assert shown(found) == ["10-25 02:30 +0200", "10-26 02:30 +0100"]


@pytest.mark.parametrize("day", [datetime(2026, 3, 29, tzinfo=BERLIN), datetime(2026, 10, 25, tzinfo=BERLIN)])
def test_an_hourly_line_fires_each_hour_that_passes(day: datetime) -> None:
    found = list_next(HOURLY, day.astimezone(UTC), 6)
    assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(hours=1)}


def test_an_outage_over_a_change_of_clocks_brings_each_instant_once() -> None:
    """Debian's cron for a fixed time; by the hour, each hour that passes, also where clocks move by half of one."""
    for timing, day, number in (
        (NIGHTLY, datetime(2026, 10, 24, 12, tzinfo=UTC), 2),
        (NIGHTLY, datetime(2026, 3, 28, 12, tzinfo=UTC), 2),
        (HOURLY, datetime(2026, 10, 24, 12, tzinfo=UTC), 48),
        (Timing("15 * * * *", "Australia/Lord_Howe"), datetime(2026, 4, 4, 3, tzinfo=UTC), 48),
        (Timing("0 12 * * *", "America/Anchorage"), datetime(2026, 10, 31, 3, tzinfo=UTC), 2),
    ):
        all_ = Timing(timing.cron, timing.timezone, misfire=Misfire.SKIP)
        due = choose_due(all_, day, day + timedelta(hours=48), grace=timedelta(0))
        found = sorted([*due.run, *due.missed])
        assert found == sorted(set(found)) == list_next(timing, day, len(found))
        assert abs(len(found) - number) <= (1 if number > 2 else 0), timing


def test_instants_are_utc_and_after_the_time_asked() -> None:
    first = find_next(NIGHTLY, datetime(2026, 6, 1, 0, 30, tzinfo=UTC))
    assert first == datetime(2026, 6, 2, 0, 30, tzinfo=UTC), "an instant is not its own next"
    assert first.tzinfo is UTC


@pytest.mark.parametrize(
    ("misfire", "run", "missed"),
    [(Misfire.SKIP, 0, 6), (Misfire.RUN_ONCE, 1, 5), (Misfire.RUN_ALL, MAX_RUN_ALL, 6 - MAX_RUN_ALL)],
)
def test_hours_of_outage_are_made_up_for_by_policy(misfire: Misfire, run: int, missed: int) -> None:
    timing = Timing("0 * * * *", "UTC", misfire=misfire)
    last = datetime(2026, 6, 1, 2, tzinfo=UTC)
    due = choose_due(timing, last, last + timedelta(hours=6, minutes=30), grace=GRACE)
    assert (len(due.run), len(due.missed)) == (run, missed)
    assert [*due.missed, *due.run] == list_next(timing, last, 6)


def test_one_that_is_on_time_runs_whatever_the_policy_and_makes_up_for_the_rest() -> None:
    last = datetime(2026, 6, 1, 2, tzinfo=UTC)
    for misfire in (Misfire.SKIP, Misfire.RUN_ONCE):
        due = choose_due(Timing("0 * * * *", "UTC", misfire=misfire), last, last + timedelta(hours=3), grace=GRACE)
        assert due.run == (last + timedelta(hours=3),)
        assert len(due.missed) == 2


def test_a_long_outage_is_looked_at_in_bounded_space() -> None:
    last = datetime(2026, 1, 1, tzinfo=UTC)
    due = choose_due(Timing("* * * * *", "UTC", misfire=Misfire.SKIP), last, last + timedelta(days=30), grace=GRACE)
    assert len(due.run) == 6, "the last five minutes and now"
    assert len(due.run) + len(due.missed) == MAX_MISSED


@given(st.integers(0, 10_000), st.lists(st.integers(1, 90), min_size=1, max_size=30), st.sampled_from(list(Misfire)))
def test_whoever_ticks_and_when_each_instant_is_run_or_missed_once(start: int, steps: list[int], rule: Misfire) -> None:
    timing = Timing("*/7 * * * *", "Europe/Berlin", misfire=rule)
    begin = now = last = datetime(2026, 10, 24, 20, tzinfo=UTC) + timedelta(minutes=start % 600)
    seen: list[datetime] = []
    for minutes in steps:
        now += timedelta(minutes=minutes)
        due = choose_due(timing, last, now, grace=GRACE)
        seen += sorted([*due.missed, *due.run])
        last = seen[-1] if seen else last
    assert seen == list_next(timing, begin, len(seen))
    assert find_next(timing, last) > now


def test_jitter_is_the_same_for_everyone_and_within_its_bound() -> None:
    schedule, instants = new_id(), list_next(HOURLY, datetime(2026, 6, 1, tzinfo=UTC), 50)
    timing = Timing("0 * * * *", "Europe/Berlin", jitter_s=120)
    starts = [delay_start(timing, schedule, instant) - instant for instant in instants]
    assert starts == [delay_start(timing, schedule, instant) - instant for instant in instants]
    assert all(timedelta(0) <= wait <= timedelta(seconds=120) for wait in starts)
    assert len(set(starts)) > 10
    assert delay_start(HOURLY, schedule, instants[0]) == instants[0]


def test_a_whole_declaration_is_read_and_said_in_words() -> None:
    timing = parse_timing(
        {
            "cron": " 30  2 * * 1-5", "timezone": "Europe/Berlin", "jitter_seconds": 120, "window": "5h",
            "misfire": "run_all", "overlap": "cancel_previous", "at_deadline": "continue",
        }
    )  # fmt: skip
    assert timing == Timing(
        "30 2 * * 1-5", "Europe/Berlin", 120, timedelta(hours=5), Misfire.RUN_ALL, Overlap.CANCEL_PREVIOUS,
        AtDeadline.CONTINUE,
    )  # fmt: skip
    assert explain(timing) == "At 02:30 on Monday through Friday (Europe/Berlin)"


@pytest.mark.parametrize(
    ("change", "param", "word"),
    [
        ({"cron": "0 0 31 2 *"}, "timing.cron", "comes"),
        ({"cron": "61 * * * *"}, "timing.cron", "minute"),
        ({"cron": "30 2 * *"}, "timing.cron", "five fields"),
        ({"cron": "0 30 2 * * 1"}, "timing.cron", "five fields"),
        ({"cron": "@daily"}, "timing.cron", "five fields"),
        ({"cron": None}, "timing.cron", "missing"),
        ({"cron": "é 2 * * *"}, "timing.cron", "minute"),
        ({"timezone": "Europe/Bern"}, "timing.timezone", "not a time zone"),
        ({"timezone": "../etc/passwd"}, "timing.timezone", "not a time zone"),
        ({"timezone": None}, "timing.timezone", "missing"),
        ({"window": "5 hours"}, "timing.window", "24h"),
        ({"window": "0h"}, "timing.window", "24h"),
        ({"jitter_seconds": -1}, "timing.jitter_seconds", "from 0"),
        ({"misfire": "never"}, "timing.misfire", "run_once"),
        ({"overlap": "both"}, "timing.overlap", "cancel_previous"),
        ({"time_zone": "UTC"}, "timing.time_zone", "timezone"),
    ],
)
def test_what_cannot_work_is_refused_at_declaration(change: dict[str, object], param: str, word: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_timing({"cron": "30 2 * * *", "timezone": "Europe/Berlin", **change})
    assert refused.value.param == param
    assert word in refused.value.message
