"""Schedules fire: a run for each instant whoever ticks, outages by policy, overlap, windows, and what cannot begin."""

from __future__ import annotations

import io
import threading
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import FILE, RUN, show_id
from batchinfer.domain.runs import RunState
from batchinfer.domain.schedules import ScheduleState
from batchinfer.domain.timing import MAX_RUN_ALL
from batchinfer.domain.userfiles import FileRequest
from batchinfer.domain.webhooks import EndpointRequest
from batchinfer.errors import BadRequest, Conflict, NotFound
from batchinfer.services import firing, runs, schedules, upkeep, userfiles, webhooks
from batchinfer.services.context import open_context
from batchinfer.store.minutes import Tally

if TYPE_CHECKING:
    from batchinfer.domain.runs import Run
    from batchinfer.domain.schedules import Schedule
    from batchinfer.services.context import Caller, Context
    from tests.store.conftest import Bench

HOURLY = {"cron": "0 * * * *", "timezone": "UTC"}


def upload(ctx: Context, caller: Caller) -> str:
    """The id of a file that runs may read."""
    request = FileRequest("a.pdf", "user_data", None)
    return show_id(FILE, userfiles.upload_file(ctx, caller, request, io.BytesIO(b"%PDF-1.7"))[0].id)


def declare(bench: Bench, name: str = "hourly", **timing: Any) -> Schedule:
    """A schedule that fires each hour, unless said otherwise."""
    body = {
        "name": name,
        "timing": {**HOURLY, **timing},
        "source": {"files": [upload(bench.ctx, bench.caller)]},
        "pipeline": {"model": "reader", "prompt": "Read page {{ page }}."},
    }
    return schedules.create_schedule(bench.ctx, bench.caller, body)[0]


#: Once an hour, at the minute of so many minutes ago: whenever a test runs, it knows how late the newest instant is.
AT_MINUTE = """
    UPDATE schedules SET spec = jsonb_set(spec, '{timing,cron}',
            to_jsonb(to_char(now() - make_interval(mins => :ago), 'FMMI') || ' * * * *')),
        last_instant = date_trunc('minute', now() - make_interval(mins => :ago, hours => :hours)),
        next_at = date_trunc('minute', now() - make_interval(mins => :ago, hours => :hours)) + interval '1 hour'
    WHERE id = :id
"""


def sleep_hours(bench: Bench, schedule: Schedule, hours: int) -> None:
    """Nobody has ticked for so many instants, the newest of which is half an hour old."""
    bench.run(AT_MINUTE, ago=30, hours=hours, id=schedule.id)


def make_due(bench: Bench, schedule: Schedule) -> None:
    """An instant has just come."""
    bench.run(AT_MINUTE, ago=0, hours=1, id=schedule.id)


def list_runs(bench: Bench, schedule: Schedule) -> list[Run]:
    """Its runs by their instants, oldest first."""
    found = schedules.list_runs(bench.ctx, bench.caller, schedule.id, limit=100).data
    return sorted(found, key=lambda run: run.instant or run.created_at)


def states(bench: Bench, schedule: Schedule) -> list[str]:
    return [run.state.value for run in list_runs(bench, schedule)]


def end_run(bench: Bench, run_id: UUID) -> None:
    """As if all of it had been read and written."""
    bench.run("DELETE FROM queue WHERE id = :id", id=run_id)
    bench.run("UPDATE batches SET status = 'completed', completed_at = now() WHERE id = :id", id=run_id)
    bench.run("UPDATE runs SET finished_at = now() WHERE id = :id", id=run_id)


def test_an_instant_becomes_a_run_that_begins(bench: Bench) -> None:
    schedule = declare(bench)
    assert upkeep.tick(bench.ctx).mismatches == 0
    assert list_runs(bench, schedule) == [], "the first instant is still to come"
    make_due(bench, schedule)
    upkeep.tick(bench.ctx)
    (run,) = list_runs(bench, schedule)
    assert (run.state, run.schedule_version, run.name) == (RunState.RUNNING, 1, "hourly")
    assert run.instant == bench.row("schedules", id=schedule.id).last_instant
    assert bench.row("queue", id=run.id).kind == "list"
    assert bench.row("batches", id=run.id).status == "in_progress"
    assert run.spec["resolved"]["prompt"] == "Read page {{ page }}."
    upkeep.tick(bench.ctx)
    assert len(list_runs(bench, schedule)) == 1


def test_many_tickers_at_once_make_one_run_an_instant(bench: Bench, settings: Any) -> None:
    mine = [declare(bench, f"s{number}", misfire="run_all", overlap="queue") for number in range(4)]
    for schedule in mine:
        sleep_hours(bench, schedule, 6)
    barrier, faults = threading.Barrier(4), []

    def tick(ctx: Any) -> None:
        try:
            barrier.wait(60)
            for _ in range(5):
                firing.fire_schedules(ctx)
        except BaseException as error:
            faults.append(error)

    with ExitStack() as stack:
        contexts = [open_context(settings) for _ in range(4)]
        for ctx in contexts:
            stack.callback(ctx.close)
        threads = [threading.Thread(target=tick, args=(ctx,)) for ctx in contexts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert faults == []
    for schedule in mine:
        found = list_runs(bench, schedule)
        instants = [run.instant for run in found]
        assert len(set(instants)) == len(instants) == 6
        assert states(bench, schedule).count("running") == 1, "the others wait for it"
        assert states(bench, schedule).count("due") == MAX_RUN_ALL - 1
    assert len(bench.rows("batches")) == 4


@pytest.mark.parametrize(("misfire", "began", "missed"), [("skip", 0, 6), ("run_once", 1, 5), ("run_all", 3, 3)])
def test_six_hours_without_anyone_who_ticks(bench: Bench, misfire: str, began: int, missed: int) -> None:
    schedule = declare(bench, misfire=misfire, overlap="queue")
    sleep_hours(bench, schedule, 6)
    upkeep.tick(bench.ctx)
    found = list_runs(bench, schedule)
    assert len(found) == 6
    assert [run.state for run in found[:missed]] == [RunState.MISSED] * missed
    assert all(run.cause and run.cause["code"] == "missed" and run.finished_at for run in found[:missed])
    later = found[missed:]
    assert [run.state for run in later] == [RunState.RUNNING, RunState.DUE, RunState.DUE][:began]
    for run in later:
        upkeep.tick(bench.ctx)
        assert runs.get_run(bench.ctx, bench.caller, run.id).state is RunState.RUNNING, "one after the other"
        end_run(bench, run.id)


def test_made_up_runs_wait_for_each_other_also_where_overlap_is_skipped(bench: Bench) -> None:
    schedule = declare(bench, misfire="run_all")
    sleep_hours(bench, schedule, 3)
    upkeep.tick(bench.ctx)
    assert states(bench, schedule) == ["running", "due", "due"]


def test_an_instant_while_the_run_before_works(bench: Bench) -> None:
    expected = {"skip": ["running", "skipped"], "queue": ["running", "due"], "cancel_previous": [None, "running"]}
    for overlap, wanted in expected.items():
        schedule = declare(bench, overlap, overlap=overlap)
        first, _ = schedules.run_now(bench.ctx, bench.caller, schedule.id)
        assert first.state is RunState.RUNNING
        make_due(bench, schedule)
        upkeep.tick(bench.ctx)
        second = next(run for run in list_runs(bench, schedule) if run.id != first.id)
        assert second.state == wanted[1]
        if overlap == "cancel_previous":
            assert bench.row("batches", id=first.id).status in ("cancelling", "cancelled")
        else:
            assert bench.row("batches", id=first.id).status == "in_progress"
        if overlap == "skip":
            assert second.cause
            assert second.cause["code"] == "overlap"
        bench.run("UPDATE schedules SET state = 'paused', next_at = NULL WHERE id = :id", id=schedule.id)


def test_a_queue_of_runs_is_bounded(bench: Bench) -> None:
    schedule = declare(bench, overlap="queue")
    schedules.run_now(bench.ctx, bench.caller, schedule.id)
    for number in range(firing.MAX_WAITING + 2):
        make_due(bench, schedule)
        bench.run("UPDATE runs SET instant = instant - interval '1 day' WHERE instant IS NOT NULL")
        firing.fire_schedules(bench.ctx)
        assert states(bench, schedule).count("due") == min(number + 1, firing.MAX_WAITING)
    assert states(bench, schedule).count("skipped") == 2


def test_jitter_begins_the_run_later(bench: Bench) -> None:
    schedule = declare(bench, jitter_seconds=21_600)
    make_due(bench, schedule)
    bench.run("UPDATE schedules SET spec = jsonb_set(spec, '{timing,jitter_seconds}', '21600') WHERE id = :id",
              id=schedule.id)  # fmt: skip
    firing.fire_schedules(bench.ctx)
    (run,) = list_runs(bench, schedule)
    assert run.instant
    assert run.due_at
    assert timedelta(0) <= run.due_at - run.instant <= timedelta(hours=6)
    bench.run("UPDATE runs SET due_at = now() + interval '1 hour'")
    firing.fire_schedules(bench.ctx)
    assert states(bench, schedule) == ["due"]
    bench.run("UPDATE runs SET due_at = now()")
    firing.fire_schedules(bench.ctx)
    assert states(bench, schedule) == ["running"]


def test_a_window_counts_from_the_instant_and_not_from_the_turn(bench: Bench) -> None:
    schedule = declare(bench, window="5h", overlap="queue")
    first, _ = schedules.run_now(bench.ctx, bench.caller, schedule.id)
    assert first.batch
    assert first.batch.expires_at - first.created_at <= timedelta(hours=5, seconds=5)
    second, _ = schedules.run_now(bench.ctx, bench.caller, schedule.id)
    third, _ = schedules.run_now(bench.ctx, bench.caller, schedule.id)
    assert (second.state, third.state) == (RunState.DUE, RunState.DUE)
    bench.run("UPDATE runs SET due_at = now() - interval '6 hours' WHERE id = :id", id=second.id)
    bench.run("UPDATE runs SET due_at = now() - interval '4 hours' WHERE id = :id", id=third.id)
    end_run(bench, first.id)
    firing.fire_schedules(bench.ctx)
    late = runs.get_run(bench.ctx, bench.caller, second.id)
    assert (late.state, late.cause and late.cause["code"]) == (RunState.SKIPPED, "window_closed")
    begun = runs.get_run(bench.ctx, bench.caller, third.id)
    assert begun.batch
    assert begun.begun_at
    assert timedelta(minutes=59) < begun.batch.expires_at - begun.begun_at < timedelta(minutes=61)


def test_a_run_that_goes_on_after_its_window_falls_to_the_last_class(bench: Bench) -> None:
    schedule = declare(bench, window="5h", at_deadline="continue")
    bench.run("UPDATE schedules SET spec = jsonb_set(spec, '{pipeline,class}', '\"normal\"')")
    run, _ = schedules.run_now(bench.ctx, bench.caller, schedule.id)
    assert run.batch
    assert (run.batch.job_class, run.spec.get("window")) == ("normal", None)
    assert run.batch.expires_at - run.created_at > timedelta(days=29)
    firing.fire_schedules(bench.ctx)
    assert bench.row("batches", id=run.id)._mapping["class"] == "normal"
    bench.run("UPDATE runs SET due_at = now() - interval '301 minutes'")
    firing.fire_schedules(bench.ctx)
    assert bench.row("batches", id=run.id)._mapping["class"] == "batch"
    assert schedule.timing.at_deadline == "continue"


def test_what_cannot_begin_fails_alone_and_its_schedule_says_why(bench: Bench) -> None:
    broken, sound = declare(bench, "broken"), declare(bench, "sound")
    for schedule in (broken, sound):
        make_due(bench, schedule)
    bench.run("UPDATE schedules SET spec = jsonb_set(spec, '{pipeline,model}', '\"gone\"') WHERE id = :id",
              id=broken.id)  # fmt: skip
    firing.fire_schedules(bench.ctx)
    (failed,), (begun,) = list_runs(bench, broken), list_runs(bench, sound)
    assert (failed.state, begun.state) == (RunState.FAILED, RunState.RUNNING)
    assert failed.cause
    assert failed.cause["code"] == "model_not_found"
    told = schedules.get_schedule(bench.ctx, bench.caller, broken.id)
    assert (told.state, told.error and told.error["code"]) == (ScheduleState.ENABLED, "model_not_found")
    bench.run("UPDATE schedules SET spec = jsonb_set(spec, '{pipeline,model}', '\"reader\"') WHERE id = :id",
              id=broken.id)  # fmt: skip
    schedules.run_now(bench.ctx, bench.caller, broken.id)
    assert schedules.get_schedule(bench.ctx, bench.caller, broken.id).error is None


def test_a_timing_that_works_no_more_stops_its_schedule_alone(bench: Bench) -> None:
    broken, sound = declare(bench, "broken"), declare(bench, "sound")
    make_due(bench, sound)
    make_due(bench, broken)
    bench.run("UPDATE schedules SET spec = jsonb_set(spec, '{timing,timezone}', '\"Mars/Base\"') WHERE id = :id",
              id=broken.id)  # fmt: skip
    firing.fire_schedules(bench.ctx)
    told = schedules.get_schedule(bench.ctx, bench.caller, broken.id)
    assert (told.state, told.next_at, told.error and told.error["param"]) == (
        ScheduleState.ERROR, None, "timing.timezone",
    )  # fmt: skip
    assert states(bench, sound) == ["running"]
    mended = schedules.change_schedule(bench.ctx, bench.caller, broken.id, {"timing": HOURLY, "enabled": True})
    assert (mended.state, mended.error, mended.version) == (ScheduleState.ENABLED, None, 2)
    assert mended.next_at


def test_a_full_queue_lets_a_run_wait_and_not_fail(bench: Bench, settings: Any) -> None:
    schedule = declare(bench)
    make_due(bench, schedule)
    with bench.ctx.db.transaction() as tx:
        tally = Tally()
        tally.count(bench.caller.tenant_id, "reader", submitted=3)
        tally.add(tx)
    full = open_context(settings.model_copy(update={"quota_jobs": 3}))
    try:
        firing.fire_schedules(full)
    finally:
        full.close()
    assert states(bench, schedule) == ["due"]
    firing.fire_schedules(bench.ctx)
    assert states(bench, schedule) == ["running"]


def test_pause_lets_instants_pass_and_nothing_is_made_up_for(bench: Bench) -> None:
    schedule = declare(bench)
    paused = schedules.pause_schedule(bench.ctx, bench.caller, schedule.id)
    assert (paused.state, paused.next_at) == (ScheduleState.PAUSED, None)
    assert schedules.pause_schedule(bench.ctx, bench.caller, schedule.id) == paused
    bench.run("UPDATE schedules SET last_instant = now() - interval '6 hours'")
    firing.fire_schedules(bench.ctx)
    resumed = schedules.resume_schedule(bench.ctx, bench.caller, schedule.id)
    assert resumed.state is ScheduleState.ENABLED
    assert resumed.next_at
    firing.fire_schedules(bench.ctx)
    assert list_runs(bench, schedule) == []
    events = [row.event for row in bench.rows("events", subject_id=schedule.id)]
    assert sorted(events) == ["created", "paused", "resumed"]


def test_a_change_is_another_version_and_runs_keep_theirs(bench: Bench) -> None:
    schedule = declare(bench)
    before, _ = schedules.run_now(bench.ctx, bench.caller, schedule.id)
    make_due(bench, schedule)
    pipeline = {"model": "reader", "prompt": "Another."}
    changed = schedules.change_schedule(
        bench.ctx, bench.caller, schedule.id, {"pipeline": pipeline, "timing": {**HOURLY, "overlap": "queue"}}
    )
    assert (changed.version, changed.declared["pipeline"]) == (2, pipeline)
    came = [run for run in list_runs(bench, schedule) if run.instant is not None]
    assert [run.schedule_version for run in came] == [1], "what had come is fired as it was declared"
    after, _ = schedules.run_now(bench.ctx, bench.caller, schedule.id)
    assert (before.schedule_version, after.schedule_version) == (1, 2)
    assert after.spec["pipeline"]["prompt"] == "Another."


def test_applying_twice_is_as_once(bench: Bench) -> None:
    body = {
        "name": "nightly", "timing": HOURLY, "source": {"files": [upload(bench.ctx, bench.caller)]},
        "pipeline": {"model": "reader", "prompt": "Read."},
    }  # fmt: skip
    made, done = schedules.apply_schedule(bench.ctx, bench.caller, body)
    again, unchanged = schedules.apply_schedule(bench.ctx, bench.caller, body)
    assert (done, unchanged, again) == ("created", "unchanged", made)
    schedules.pause_schedule(bench.ctx, bench.caller, made.id)
    still, _ = schedules.apply_schedule(bench.ctx, bench.caller, body)
    assert still.state is ScheduleState.PAUSED, "what the file does not say stays"
    later, changed = schedules.apply_schedule(
        bench.ctx, bench.caller, {**body, "enabled": True, "metadata": {"a": "b"}}
    )
    assert (later.id, later.version, changed, later.state) == (made.id, 2, "changed", ScheduleState.ENABLED)


def test_a_deleted_schedule_fires_no_more_and_its_name_is_free(bench: Bench) -> None:
    schedule = declare(bench, overlap="queue")
    running, _ = schedules.run_now(bench.ctx, bench.caller, schedule.id)
    waiting, _ = schedules.run_now(bench.ctx, bench.caller, schedule.id)
    make_due(bench, schedule)
    schedules.delete_schedule(bench.ctx, bench.caller, schedule.id)
    firing.fire_schedules(bench.ctx)
    kept = {run.id: run.state for run in runs.list_runs(bench.ctx, bench.caller, schedule_id=schedule.id).data}
    assert kept == {running.id: RunState.RUNNING, waiting.id: RunState.CANCELLED}
    with pytest.raises(NotFound, match="deleted"):
        schedules.get_schedule(bench.ctx, bench.caller, schedule.id)
    assert declare(bench).name == schedule.name


def test_a_run_by_hand_is_refused_where_overlap_is_skipped(bench: Bench) -> None:
    schedule = declare(bench)
    first, _ = schedules.run_now(bench.ctx, bench.caller, schedule.id)
    with pytest.raises(Conflict) as refused:
        schedules.run_now(bench.ctx, bench.caller, schedule.id)
    assert refused.value.code == "schedule_busy"
    end_run(bench, first.id)
    second, _ = schedules.run_now(bench.ctx, bench.caller, schedule.id)
    assert second.state is RunState.RUNNING
    with pytest.raises(Conflict, match="already"):
        declare(bench)


def test_webhooks_hear_what_became_of_runs(bench: Bench) -> None:
    wanted = EndpointRequest("mine", "https://example.com/hook", ("run.missed", "run.skipped", "run.failed"))
    webhooks.create_endpoint(bench.ctx, bench.caller, wanted)
    schedule = declare(bench, misfire="skip")
    sleep_hours(bench, schedule, 1)
    firing.fire_schedules(bench.ctx)
    (missed,) = list_runs(bench, schedule)
    (told,) = bench.rows("outbox")
    assert (told.subject, told.subject_id) == ("run", missed.id)
    assert told.payload["type"] == "run.missed"
    assert told.payload["data"] == {"id": show_id(RUN, missed.id)}


def test_a_declaration_is_held_against_what_is_there(bench: Bench) -> None:
    body = {
        "name": "n", "timing": HOURLY, "source": {"files": [upload(bench.ctx, bench.caller)]},
        "pipeline": {"model": "reader", "prompt": "x"},
    }  # fmt: skip
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"timing": {**HOURLY, "cron": "0 0 31 2 *"}}, BadRequest, "timing.cron"),
        ({"timing": {**HOURLY, "timezone": "Mars/Base"}}, BadRequest, "timing.timezone"),
        ({"timing": None}, BadRequest, "timing"),
        ({"window": "5h"}, BadRequest, "window"),
        ({"name": None}, BadRequest, "name"),
        ({"pipeline": {"model": "gone", "prompt": "x"}}, NotFound, "pipeline.model"),
        ({"pipeline": {"model": "reader", "prompt": "{{ nobody }}"}}, BadRequest, "pipeline.prompt"),
        ({"pipeline": {"model": "reader", "template": "none"}}, NotFound, "pipeline.template"),
        ({"source": {}}, BadRequest, "source.uri"),
        ({"timings": HOURLY}, BadRequest, "timings"),
        ({"enabled": "yes"}, BadRequest, "enabled"),
    ]
    for change, kind, param in wrong:
        with pytest.raises(kind) as refused:
            schedules.create_schedule(bench.ctx, bench.caller, {**body, **change})
        assert refused.value.param == param  # type: ignore[attr-defined]
    with bench.ctx.db.transaction() as tx:
        assert tx.execute(text("SELECT count(*) FROM schedules")).scalar() == 0
