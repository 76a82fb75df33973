"""A timeline has no gaps, and its stages add up, whatever the tries say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.domain.jobs import Attempt
from batchinfer.domain.timelines import build_timeline

START = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = st.integers(-5000, 60_000).map(lambda ms: START + timedelta(milliseconds=ms))
TIMINGS = st.none() | st.dictionaries(
    st.sampled_from(["waiting", "preparing", "prefill", "decoding", "rows"]), st.floats(0, 100)
)


def attempt(begun, ended, *, timings=None, kind="infer", outcome="succeeded", number=1):
    return Attempt(number, outcome, "w1", begun, ended, None, timings, kind)


@given(
    tries=st.lists(
        st.builds(
            attempt, st.none() | TIMES, TIMES, timings=TIMINGS, kind=st.sampled_from(["infer", "prepare"]),
            outcome=st.sampled_from(["succeeded", "retry", "lost", "failed", "cancelled"]),
        ),
        max_size=5,
    ),
    ended_at=st.none() | TIMES,
    now=TIMES,
    held=st.none() | st.tuples(st.just("infer"), TIMES),
)  # fmt: skip
def test_stages_add_up_to_the_whole_time(tries, ended_at, now, held):
    timeline = build_timeline(START, tries, ended_at=ended_at, now=now, held=held)
    assert sum(timeline.stages.values()) == pytest.approx(timeline.total_s, abs=1e-5)
    assert all(seconds >= 0 for span in timeline.spans for seconds in span.stages.values())
    reached = START
    for span in timeline.spans:
        assert span.started_at == reached
        reached = span.finished_at or reached
    assert [span.try_ for span in timeline.spans if span.try_] == tries
    assert all(span.finished_at for span in timeline.spans) == (ended_at is not None)


def at(seconds):
    return START + timedelta(seconds=seconds)


def test_a_job_with_a_picture_and_a_retry():
    tries = [
        attempt(at(1), at(3), kind="prepare"),
        attempt(at(4), at(6), outcome="lost", number=2),
        attempt(at(10), at(20), timings={"waiting": 1.0, "prefill": 2.0, "decoding": 6.0, "rows": 3.5}, number=3),
    ]
    timeline = build_timeline(START, tries, ended_at=at(20), now=at(99))
    assert timeline.total_s == 20
    assert timeline.stages == {
        "waiting": 7.0, "preparing": 2.0, "prefill": 2.0, "decoding": 6.0, "storing": 1.0, "other": 2.0
    }  # fmt: skip
    assert [span.kind for span in timeline.spans] == ["waiting", "prepare", "waiting", "infer", "waiting", "infer"]


def test_what_goes_on_counts_up_to_now():
    waits = build_timeline(START, [], ended_at=None, now=at(5))
    assert (waits.stages["waiting"], waits.spans[-1].finished_at) == (5.0, None)
    runs = build_timeline(START, [], ended_at=None, now=at(5), held=("infer", at(2)))
    assert (runs.stages["waiting"], runs.stages["other"]) == (2.0, 3.0)
