"""Rows whose worker was lost before run apart from the others."""

from __future__ import annotations

import threading
from typing import Any

from batchinfer.domain.jobs import JobState
from batchinfer.domain.retries import SUSPECT_GROUP
from batchinfer.services.crumbs import read_crumbs
from bench.chaos.proxy import Loss
from workers.answering import Answering
from workers.feeder import Feeder


class Recording(Answering):
    """Notes what was taken together, and what was inside at that moment."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.groups: list[tuple[int, list[int]]] = []

    def take(self, pieces: Any) -> None:
        self.groups.append((self.count_inside(), [piece.claim.suspected for piece in pieces]))
        super().take(pieces)


def start_recording(rig: Any) -> Recording:
    old, crew = rig.station, rig.crew
    station = Recording(rig.engine, crew.lease.held, crew.committer, model="fake-model", revision="r1", slots=old.slots)
    crew.station = crew.heart._station = station
    crew.feeder = Feeder(rig.ctx, crew.lease, station, crew.committer)
    station.on_room = crew.committer.on_written = crew.feeder.wake
    crew.start(threading.Event())
    return station


def test_suspects_run_in_small_groups_and_apart(make_rig, work, sql) -> None:
    fresh = [work.submit(f"fresh {number}") for number in range(10)]
    suspects = [work.submit(f"suspect {number}") for number in range(20)]
    for job_id in suspects:
        sql("UPDATE queue SET crashes = 1, suspected = 1, attempt = 1 WHERE id = %s", job_id)
    station = start_recording(make_rig(slots=32))
    assert {job.state for job in work.wait(*fresh, *suspects)} == {JobState.SUCCEEDED}
    apart = [(inside, group) for inside, group in station.groups if any(group)]
    assert sum(map(sum, (group for _, group in apart))) == 20
    assert all(inside == 0 and len(group) <= SUSPECT_GROUP for inside, group in apart)
    assert {work.get(job_id).attempts for job_id in suspects} == {1}


def test_a_row_with_two_losses_runs_alone(make_rig, work, sql) -> None:
    ids = [work.submit(f"job {number}") for number in range(6)]
    for job_id in ids[:3]:
        sql("UPDATE queue SET crashes = 2, suspected = 2, attempt = 2 WHERE id = %s", job_id)
    station = start_recording(make_rig(slots=8))
    assert {job.state for job in work.wait(*ids)} == {JobState.SUCCEEDED}
    apart = [(inside, group) for inside, group in station.groups if any(group)]
    assert apart == [(0, [2])] * 3


def test_a_result_that_is_not_written_is_not_left_beside_a_suspect(make_rig, work, sql, database_proxy) -> None:
    proxy, proxied = database_proxy
    innocent, suspect = work.submit("innocent"), work.submit("suspect")
    for job_id in (innocent, suspect):
        sql("UPDATE queue SET crashes = 2, suspected = 2, attempt = 2 WHERE id = %s", job_id)
    proxy.lose_commits([Loss.AFTER], b"INSERT INTO results")  # the first result waits for its second try
    station = start_recording(make_rig(slots=4, database_url=proxied))
    pending: list[int] = []
    take = station.take

    def look_and_take(pieces: Any) -> None:
        pending.append(len(station._committer.list_pending()))
        take(pieces)

    station.take = look_and_take
    assert {job.state for job in work.wait(innocent, suspect)} == {JobState.SUCCEEDED}
    assert (proxy.lost[Loss.AFTER], pending) == (1, [0, 0])


def test_who_may_start_is_not_forgotten_when_the_others_cannot_be_given_back(
    make_rig, work, sql, database_proxy
) -> None:
    proxy, proxied = database_proxy
    ids = [work.submit(f"job {number}") for number in range(4)]
    for job_id in ids:
        sql("UPDATE queue SET crashes = 2, suspected = 2, attempt = 2 WHERE id = %s", job_id)
    proxy.lose_commits([Loss.BEFORE], b"released = q.released + 1")
    start_recording(make_rig(slots=8, database_url=proxied))
    assert {job.state for job in work.wait(*ids)} == {JobState.SUCCEEDED}
    assert proxy.lost[Loss.BEFORE] == 1


def test_breadcrumbs_follow_what_the_engine_is_at(make_rig, work, until) -> None:
    rig = make_rig(slots=2, steps_per_s=20)
    rig.crew.start(threading.Event())
    lease_id = rig.crew.lease.id
    ids = [work.submit(f"[[steps:40]] {number}") for number in range(4)]
    folder = rig.ctx.settings.crumbs_dir

    def look() -> Any:
        crumbs = read_crumbs(folder, lease_id)
        return crumbs if crumbs and len(rig.crew.lease.held) > len(crumbs) else None

    seen = until(look, "some are at work while others wait")
    assert len(seen) <= 2
    assert seen < set(ids)
    assert {job.state for job in work.wait(*ids)} == {JobState.SUCCEEDED}
    until(lambda: read_crumbs(folder, lease_id) == frozenset(), "nothing is at work")
    rig.crew.drain(0.0, "the test ended")
    assert read_crumbs(folder, lease_id) is None


def test_output_that_is_no_json_is_tried_once_more(make_rig, work, monkeypatch) -> None:
    asked = {"response_format": {"type": "json_object"}}
    good, cut = work.submit("fine", **asked), work.submit("cut", max_tokens=3, **asked)
    monkeypatch.setattr("workers.engine.fake.answer", lambda request: "no JSON" if _is_bad(request) else "{}")
    bad = work.submit("bad", **asked)
    make_rig().crew.start(threading.Event())
    found = work.wait(good, cut, bad)
    assert [job.state for job in found] == [JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED]
    assert (found[2].error["code"], found[2].attempts) == ("invalid_output", 2)
    assert work.outcomes(bad) == ["retry", "failed"]


def _is_bad(request: Any) -> bool:
    return "bad" in str(request.messages)
