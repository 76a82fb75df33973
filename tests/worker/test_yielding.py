"""Night work yields: interactive jobs run at once on a worker full of batch rows, which lose nothing but time."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from batchinfer.domain.jobs import TERMINAL, JobState
from batchinfer.services import work as verbs

#: A minute at 50 steps a second, or a few seconds at 200.
NIGHT = "[[steps:1000]] night"
#: Less than `poll_s` where it is 60: what starts within was announced.
WITHOUT_A_LOOK_S = 50.0


def start(rig: Any) -> Any:
    rig.crew.start(threading.Event())
    return rig


def submit_night(work: Any, number: int, text: str = NIGHT) -> list[Any]:
    return [work.submit(f"{text} {n}", **{"class": "batch", "max_tokens": 2000}) for n in range(number)]


def submit_now(work: Any, text: str = "now") -> Any:
    return work.submit(text, **{"class": "interactive"})


def test_an_interactive_job_ends_before_any_row_of_a_full_worker(make_rig, work, until) -> None:
    night = submit_night(work, 5)
    rig = start(make_rig(slots=4, steps_per_s=200))
    until(lambda: rig.engine.stats().running == 4 and rig.station.count_inside() == 5, "slots and buffer are full")
    (now,) = work.wait(submit_now(work))
    assert now.state is JobState.SUCCEEDED
    assert not [job_id for job_id in night if work.state(job_id) in TERMINAL]
    found = work.wait(*night)
    assert {(job.state, job.attempts) for job in found} == {(JobState.SUCCEEDED, 1)}
    outcomes = sorted(work.outcomes(job_id) for job_id in night)
    assert outcomes == [["released", "succeeded"], *[["succeeded"]] * 4]
    until(lambda: rig.crew.describe()["completed"] == 6, "all are counted")
    shown = rig.crew.describe()
    assert (shown["evicted"], shown["released"], shown["fenced"]) == (1, 1, 0)


def test_what_was_given_back_three_times_keeps_its_slot(make_rig, work, sql, until) -> None:
    (night,) = submit_night(work, 1, "[[steps:400]] night")
    sql("UPDATE queue SET released = 3, attempt = 3 WHERE id = %s", night)
    sql(
        "INSERT INTO attempts (job_id, number, tenant_id, outcome, kind) "
        "SELECT id, number, tenant_id, 'released', 'infer' FROM queue, generate_series(1, 3) AS number WHERE id = %s",
        night,
    )
    rig = start(make_rig(slots=1, steps_per_s=200))
    until(lambda: rig.engine.stats().running == 1, "it runs")
    now = submit_now(work)
    until(lambda: rig.engine.stats().waiting == 1, "the interactive job is claimed, and waits in the engine")
    assert work.state(night) is JobState.RUNNING
    first, second = work.wait(night, now)
    assert (work.outcomes(night), first.attempts) == ([*["released"] * 3, "succeeded"], 1)
    assert first.finished_at < second.finished_at
    assert rig.engine.stats().evicted == 0


def test_tries_that_were_no_yielding_do_not_make_a_row_keep_its_slot(make_rig, work, sql, until) -> None:
    """Preparing, and each rung that a refused page climbs, count as released too."""
    (night,) = submit_night(work, 1)
    sql("UPDATE queue SET released = 3, attempt = 3 WHERE id = %s", night)
    rig = start(make_rig(slots=1, steps_per_s=200))
    until(lambda: rig.engine.stats().running == 1, "it runs")
    (now,) = work.wait(submit_now(work))
    assert now.state is JobState.SUCCEEDED
    assert rig.engine.stats().evicted == 1


def test_behind_normal_rows_it_waits_for_a_slot_and_not_for_the_buffer(make_rig, work, until) -> None:
    normal = [work.submit(f"[[steps:{steps}]] {steps}", max_tokens=2000) for steps in (200, 1000, 1100)]
    rig = start(make_rig(slots=2, steps_per_s=200))
    until(lambda: rig.station.count_inside() == 3, "slots and buffer are full")
    (now,) = work.wait(submit_now(work))
    assert now.state is JobState.SUCCEEDED
    assert [work.state(job_id) for job_id in normal[1:]] == [JobState.RUNNING] * 2
    assert rig.engine.stats().evicted == 0


def test_a_full_worker_asks_only_for_what_was_announced(make_rig, work, until, monkeypatch) -> None:
    asked: list[bool] = []

    def count(*arguments: Any, **options: Any) -> Any:
        asked.append(options["urgent_only"])
        return claim(*arguments, **options)

    claim = verbs.claim
    monkeypatch.setattr(verbs, "claim", count)
    submit_night(work, 5, "[[steps:100000]] night")
    rig = start(make_rig(slots=4, steps_per_s=50, poll_s=60.0))
    until(lambda: rig.station.count_inside() == 5, "slots and buffer are full")
    feeder = rig.crew.feeder
    for _ in range(5):
        feeder.wake()
        until(lambda: not feeder._awake.is_set(), "it looked")
    assert asked == [False], "room and announcements of other classes cost no claim"
    now = submit_now(work)
    feeder.wake(urgent=True)
    assert work.wait(now)[0].state is JobState.SUCCEEDED
    assert asked[:2] == [False, True]


@pytest.mark.long
def test_an_announcement_reaches_a_full_process(work, launcher) -> None:
    """A worker that looks so seldom that only the message explains it."""
    night = submit_night(work, 3, "[[steps:100000]] night")
    launcher.start_model(
        "--engine-options", '{"steps_per_s": 50}', slots=2, poll_s=60.0, lease_ttl_s=300.0, drain_s=0.5
    )
    work.wait_running(*night)
    (now,) = work.wait(submit_now(work), timeout_s=WITHOUT_A_LOOK_S)
    assert now.state is JobState.SUCCEEDED
    assert [outcome for job_id in night for outcome in work.outcomes(job_id)] == ["released"]


def test_a_flood_of_interactive_jobs_leaves_the_night_its_share(make_rig, work, until) -> None:
    flood = [submit_now(work, f"[[steps:20]] {number}") for number in range(150)]
    night = submit_night(work, 3, "[[steps:40]] night")
    rig = start(make_rig(slots=4, steps_per_s=200, ageing_s=0.0))
    found = work.wait(*night)
    assert {(job.state, job.attempts) for job in found} == {(JobState.SUCCEEDED, 1)}
    assert work.state(flood[-1]) is not JobState.SUCCEEDED, "it did not have to wait for the end of the flood"
    assert all(work.outcomes(job_id).count("released") <= 3 for job_id in night)
    assert {job.state for job in work.wait(*flood)} == {JobState.SUCCEEDED}
    until(lambda: rig.crew.describe()["completed"] == 153, "all are counted")
