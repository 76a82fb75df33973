"""Who is suspected of a lost worker, and what is proof."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from batchinfer.domain.jobs import JobState
from batchinfer.domain.retries import ALONE_FROM, SUSPECT_GROUP
from batchinfer.errors import Conflict, Forbidden
from batchinfer.services import jobs as job_services
from batchinfer.services import work
from batchinfer.services.crumbs import Crumbs, read_crumbs, sweep_crumbs


@pytest.fixture
def folder(bench):
    return bench.ctx.settings.crumbs_dir


def kill(bench, lease):
    work.end_lease(bench.ctx, lease, "killed", clean=False)


def suspected(bench):
    return {row.id: row.suspected for row in bench.rows("queue")}


def test_without_breadcrumbs_all_that_was_held_is_suspected(bench):
    ids = bench.put(4)
    lease = bench.open()
    bench.claim(lease)
    kill(bench, lease)
    assert suspected(bench) == dict.fromkeys(ids, 1)
    assert {row.crashes for row in bench.rows("queue")} == {1}


def test_breadcrumbs_narrow_the_suspects(bench, folder):
    ids = bench.put(6)
    lease = bench.open()
    bench.claim(lease)
    crumbs = Crumbs(folder, 8)
    crumbs.begin(lease)
    for job_id in ids[:4]:
        crumbs.enter(job_id)
    crumbs.leave(ids[0])
    crumbs.enter(uuid4())  # of a row that is no longer held
    kill(bench, lease)
    assert suspected(bench) == {job_id: int(job_id in ids[1:4]) for job_id in ids}
    assert {row.crashes for row in bench.rows("queue")} == {1}, "none of them counts a try"
    assert {bench.job(job_id).attempts for job_id in ids} == {0}


def test_with_nothing_at_work_nobody_is_suspected(bench, folder):
    ids = bench.put(3)
    lease = bench.open()
    bench.claim(lease)
    Crumbs(folder, 8).begin(lease)
    kill(bench, lease)
    assert suspected(bench) == dict.fromkeys(ids, 0)


def test_the_only_one_at_work_is_proven_beside_others_that_were_held(bench, folder):
    guilty, waiting = bench.put(2)
    for _ in range(3):
        bench.make_due()
        lease = bench.open()
        bench.claim(lease)
        crumbs = Crumbs(folder, 8)
        crumbs.begin(lease)
        crumbs.enter(guilty)
        kill(bench, lease)
    assert bench.job(guilty).state is JobState.QUARANTINED
    assert (bench.job(waiting).state, suspected(bench)) == (JobState.QUEUED, {waiting: 0})


def test_a_host_that_is_killed_again_and_again_quarantines_no_innocents(bench):
    ids = bench.put(5)
    for _ in range(20):
        bench.make_due()
        lease = bench.open()
        assert len(bench.claim(lease)) == 5
        kill(bench, lease)
    assert {bench.job(job_id).state for job_id in ids} == {JobState.QUEUED}
    lease = bench.open()
    bench.make_due()
    bench.complete(lease, bench.claim(lease))
    assert {(job.state, job.attempts, job.crashes) for job in map(bench.job, ids)} == {(JobState.SUCCEEDED, 1, 20)}


def test_rows_of_two_leases_are_judged_apart(bench):
    """One reaper may end several leases at once: what crashed alone under one is no crowd with the other's."""
    guilty, *others = bench.put(4)
    bench.run("UPDATE queue SET suspected = 2 WHERE true")
    first, second = bench.open("a"), bench.open("b")
    assert [claim.id for claim in bench.claim(first, 1)] == [guilty]
    assert len(bench.claim(second)) == 3
    bench.run("UPDATE leases SET heartbeat_at = now() - interval '1 hour'")
    assert work.reap(bench.ctx) == 2
    assert bench.job(guilty).state is JobState.QUARANTINED
    assert suspected(bench) == dict.fromkeys(others, 3)


def test_three_poisons_among_256_are_found_with_at_most_three_kills_each(bench):
    """The feeder's way through suspects, played by hand: a crowd, groups of eight, alone."""
    ids = bench.put(256)
    poisons = set(random.Random(3).sample(ids, 3))
    kills = dict.fromkeys(poisons, 0)
    for _ in range(200):
        bench.make_due()
        lease = bench.open()
        claims = bench.claim(lease, 256)
        if not claims:
            break
        alone = [claim for claim in claims if claim.suspected >= ALONE_FROM][:1]
        group = alone or [claim for claim in claims if claim.suspected][:SUSPECT_GROUP] or claims
        work.release(bench.ctx, lease, [claim for claim in claims if claim not in group])
        guilty = [claim.id for claim in group if claim.id in poisons]
        if guilty:
            kills[guilty[0]] += 1
            kill(bench, lease)
        else:
            bench.complete(lease, group)
            work.end_lease(bench.ctx, lease, "done")
    states = {job_id: bench.row("jobs", id=job_id).final_state for job_id in ids}
    assert {job_id for job_id, state in states.items() if state == "quarantined"} == poisons
    assert {state for job_id, state in states.items() if job_id not in poisons} == {"succeeded"}
    assert max(kills.values()) <= 3


def test_a_released_job_runs_alone_and_one_more_loss_is_proof(bench):
    (job_id,) = bench.put()
    bench.run("UPDATE queue SET suspected = 2")
    lease = bench.open()
    bench.claim(lease)
    kill(bench, lease)
    assert bench.job(job_id).state is JobState.QUARANTINED
    job_services.release_job(bench.ctx, bench.caller, job_id)
    lease = bench.open("again")
    (claim,) = bench.claim(lease)
    assert claim.suspected >= ALONE_FROM
    kill(bench, lease)
    assert bench.job(job_id).state is JobState.QUARANTINED
    events = [(event.event, event.actor) for event in bench.rows("events", subject_id=job_id)]
    assert [name for name, _ in events] == ["quarantined", "released", "quarantined"]
    assert events[1][1] == bench.caller.actor


def test_release_is_for_quarantined_jobs_of_ones_own(bench):
    (job_id,) = bench.put()
    with pytest.raises(Conflict):
        job_services.release_job(bench.ctx, bench.caller, job_id)
    with pytest.raises(Forbidden):
        job_services.release_job(bench.ctx, replace(bench.caller, scopes=frozenset({"cancel", "read"})), job_id)


def test_crumbs_are_kept_by_lease_and_removed_at_an_orderly_end(tmp_path):
    first, second, row = uuid4(), uuid4(), uuid4()
    crumbs = Crumbs(tmp_path, 2)
    crumbs.enter(row)  # before any lease: nowhere to note it
    crumbs.begin(first)
    crumbs.enter(row)
    assert read_crumbs(tmp_path, first) == {row}
    crumbs.begin(second)
    assert read_crumbs(tmp_path, first) is None
    assert read_crumbs(tmp_path, second) == frozenset()
    crumbs.close()
    assert list(tmp_path.iterdir()) == []


def test_more_rows_than_places_mean_that_nobody_knows(tmp_path):
    lease, rows = uuid4(), [uuid4() for _ in range(4)]
    crumbs = Crumbs(tmp_path, 3)
    crumbs.begin(lease)
    for row in rows[:3]:
        crumbs.enter(row)
        crumbs.enter(row)
    assert read_crumbs(tmp_path, lease) == set(rows[:3])
    crumbs.enter(rows[3])
    assert read_crumbs(tmp_path, lease) is None


@pytest.mark.parametrize("content", [b"", b"nonsense", b"batchinfer crumb" + b"x" * 7])
def test_a_file_that_is_no_breadcrumb_says_nothing(tmp_path, content):
    lease = uuid4()
    (tmp_path / lease.hex).write_bytes(content)
    assert read_crumbs(tmp_path, lease) is None


def test_without_a_folder_nothing_is_noted_and_old_files_go(tmp_path):
    crumbs = Crumbs()
    crumbs.begin(UUID(int=1))
    crumbs.enter(UUID(int=2))
    crumbs.close()
    old, fresh = tmp_path / "old", tmp_path / "fresh"
    for file in (old, fresh):
        file.write_bytes(b"")
    os.utime(old, (1, 1))
    assert sweep_crumbs(tmp_path) == 1
    assert list(tmp_path.iterdir()) == [fresh]
    assert sweep_crumbs(tmp_path / "none") == 0
