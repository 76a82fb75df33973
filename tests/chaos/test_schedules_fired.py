"""Nights and those who tick: beats that are killed before, during and after the insert, two at once, none for hours."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batchinfer.domain.ids import FILE, show_id
from batchinfer.domain.timing import list_next
from batchinfer.domain.userfiles import FileRequest
from batchinfer.services import schedules, userfiles
from bench.chaos.cluster import MODEL

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from batchinfer.domain.schedules import Schedule
    from bench.chaos.cluster import Cluster

HOURS = 6
#: Every insert of a run takes a while, so that a kill can meet it.
DAWDLE = """
    CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END';
    CREATE TRIGGER dawdle BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION dawdle()
"""
INSERTING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%INSERT INTO runs%'"
OF_ONE = "SELECT count(*) FROM runs WHERE schedule_id = %s"
BEGUN = "SELECT count(*) FROM runs WHERE schedule_id = %s AND state = 'running'"


def upload(cluster: Cluster) -> str:
    """The id of a file that runs may read."""
    request = FileRequest("a.pdf", "user_data", None)
    return show_id(FILE, userfiles.upload_file(cluster.ctx, cluster.caller, request, io.BytesIO(b"%PDF-1.7"))[0].id)


def declare(cluster: Cluster, name: str, misfire: str) -> Schedule:
    """An hourly schedule of which nobody has seen an instant for six hours; the newest is half an hour old."""
    newest = "date_trunc('minute', now()) - interval '30 minutes'"
    last, minute = cluster.sql(f"SELECT {newest} - interval '6 hours', extract(minute FROM {newest})")[0]  # noqa: S608
    body = {
        "name": name,
        "timing": {"cron": f"{minute} * * * *", "timezone": "UTC", "misfire": misfire, "overlap": "queue"},
        "source": {"files": [upload(cluster)]},
        "pipeline": {"model": MODEL, "prompt": "Read."},
    }
    made, _ = schedules.create_schedule(cluster.ctx, cluster.caller, body)
    cluster.sql(
        "UPDATE schedules SET last_instant = %s, next_at = CAST(%s AS timestamptz) + interval '1 hour' WHERE id = %s",
        last, last, made.id,
    )  # fmt: skip
    return replace(made, last_instant=last)


def check_once(cluster: Cluster, schedule: Schedule) -> list[str]:
    """Each instant since then has one run, and there is no other. Answers their states, oldest first."""
    found = cluster.sql("SELECT instant, state FROM runs WHERE schedule_id = %s ORDER BY instant", schedule.id)
    assert schedule.last_instant is not None
    assert [instant for instant, _ in found] == list_next(schedule.timing, schedule.last_instant, HOURS)
    return [state for _, state in found]


def kill_beat(cluster: Cluster, name: str, schedule_id: UUID, when: str) -> None:
    """kill -9 of a beat before, during or after the insert of a schedule's runs."""
    member = cluster.members[name]
    if when == "during":
        cluster.wait(lambda: cluster.count(INSERTING) > 0, "the runs are being inserted", pause_s=0.01)
    elif when == "after":
        cluster.wait(lambda: cluster.count(OF_ONE, schedule_id) > 0, "the runs are there", pause_s=0.01)
    cluster.kill(name)
    member.wait()


@pytest.mark.parametrize("beats", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_beat_killed_before_during_and_after_the_insert(
    make_cluster: Callable[..., Cluster], full: bool, beats: int
) -> None:
    cluster = make_cluster()
    cluster.sql(DAWDLE)
    names = [f"beat-{number}" for number in range(beats)]
    for name in names:
        cluster.start_beat(name)
    mine = []
    for round_ in range(21 if full else 3):
        schedule = declare(cluster, f"night-{round_}", "run_all")
        mine.append(schedule)
        kill_beat(cluster, names[round_ % beats], schedule.id, ("before", "during", "after")[round_ % 3])
        cluster.wait(lambda one=schedule.id: cluster.count(BEGUN, one) == 1, "its night begins")  # type: ignore[misc]
    for schedule in mine:
        assert check_once(cluster, schedule) == ["missed"] * 3 + ["running", "due", "due"]
    assert cluster.count("SELECT count(*) FROM batches") == len(mine)
    assert cluster.count("SELECT count(*) FROM queue WHERE kind = 'list'") == len(mine)


def test_six_hours_without_a_beat(make_cluster: Callable[..., Cluster]) -> None:
    """Then two at once: each night is caught up with or marked as missed, as its policy says."""
    cluster = make_cluster()
    expected = {"skip": [], "run_once": ["running"], "run_all": ["running", "due", "due"]}
    mine = {policy: declare(cluster, policy, policy) for policy in expected}
    for name in ("one", "other"):
        cluster.start_beat(name)
    for schedule in mine.values():
        cluster.wait(lambda one=schedule.id: cluster.count(OF_ONE, one) >= HOURS, "it is dealt with")  # type: ignore[misc]
    cluster.wait(lambda: cluster.count("SELECT count(*) FROM runs WHERE state = 'running'") == 2, "they begin")
    cluster.rest(2.0)
    for policy, made_up in expected.items():
        assert check_once(cluster, mine[policy]) == ["missed"] * (HOURS - len(made_up)) + made_up, policy
