"""Leases: alive or dead, and what a dead one held."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobState
from batchinfer.errors import Conflict
from batchinfer.services import fleet, upkeep, work
from batchinfer.services import jobs as job_services
from batchinfer.services.losses import make_loss_rule
from batchinfer.store import leases
from batchinfer.store.claims import PREPARE

MAX_CRASHES = 3


def _silence(bench, lease, seconds=3600):
    bench.run("UPDATE leases SET heartbeat_at = now() - make_interval(secs => :s) WHERE id = :id", s=seconds, id=lease)


def test_a_lease_has_a_random_id_and_shows_its_worker(bench):
    first, second = bench.open("same"), bench.open("same")
    assert first != second
    assert first.version == second.version == 4
    workers = fleet.list_workers(bench.ctx, bench.caller)
    assert {worker.lease_id for worker in workers} == {first, second}
    assert (workers[0].worker, workers[0].host, workers[0].slots, workers[0].dead) == ("same", "here", 8, False)
    assert workers[0].silent_s < 60


def test_a_sign_of_life_tells_what_is_still_held(bench):
    ids = bench.put(3)
    lease = bench.open()
    bench.claim(lease)
    job_services.cancel_job(bench.ctx, bench.caller, ids[1])
    beat = work.beat(bench.ctx, lease, {"rows_per_step": 3.5})
    assert beat == work.Beat(alive=True, held=frozenset({(ids[0], 1), (ids[2], 1)}))
    assert work.beat(bench.ctx, lease).alive
    (worker,) = fleet.list_workers(bench.ctx, bench.caller)
    assert (worker.info, worker.running) == ({"rows_per_step": 3.5}, 2)


def test_a_dead_lease_cannot_come_back(bench):
    lease = bench.open()
    work.end_lease(bench.ctx, lease, "stopped")
    assert work.beat(bench.ctx, lease) == work.Beat(alive=False, held=frozenset())
    assert work.beat(bench.ctx, new_id()).alive is False
    (worker,) = fleet.list_workers(bench.ctx, bench.caller)
    assert (worker.dead, worker.end_reason) == (True, "stopped")


def test_a_clean_end_gives_back_without_a_crash(bench):
    ids = bench.put(2)
    lease = bench.open()
    bench.claim(lease)
    work.end_lease(bench.ctx, lease, "drained")
    for job_id in ids:
        assert (bench.job(job_id).attempts, bench.job(job_id).crashes) == (0, 0)
        assert bench.attempts(job_id) == [(1, "released")]
    assert len(bench.claim(bench.open())) == 2


def test_a_silent_lease_is_reaped_and_a_speaking_one_is_not(bench):
    silent, speaking = bench.put(2)
    dead, alive = bench.open("dead"), bench.open("alive")
    assert [claim.id for claim in bench.claim(dead, 1)] == [silent]
    assert [claim.id for claim in bench.claim(alive, 1)] == [speaking]
    _silence(bench, dead)
    assert work.reap(bench.ctx) == 1
    assert work.reap(bench.ctx) == 0
    assert bench.job(silent).state is JobState.QUEUED
    assert bench.job(speaking).state is JobState.RUNNING
    assert bench.row("leases", id=dead).end_reason == "silent"
    assert bench.attempts(silent) == [(1, "lost")]


def test_the_first_crash_comes_back_within_a_second(bench):
    bench.put(30)
    lease = bench.open()
    bench.claim(lease)
    work.end_lease(bench.ctx, lease, "killed", clean=False)
    ended = bench.row("leases", id=lease).ended_at
    waits = [(row.available_at - ended).total_seconds() for row in bench.rows("queue")]
    assert 0 <= min(waits) <= max(waits) <= 1


@pytest.mark.parametrize("kind", ["infer", PREPARE])
def test_a_job_under_which_workers_are_lost_is_quarantined(bench, kind):
    (job_id,) = bench.put(kind=kind)
    for number in range(1, MAX_CRASHES + 1):
        bench.make_due()
        lease = bench.open(f"w{number}")
        (claim,) = bench.claim(lease, kinds=[kind])
        assert claim.crashes == number - 1
        work.end_lease(bench.ctx, lease, "killed", clean=False)
    job = bench.job(job_id)
    assert (job.state, job.attempts, job.crashes) == (JobState.QUARANTINED, 0, MAX_CRASHES)
    assert job.error["code"] == "worker_lost"
    assert bench.row("queue", id=job_id) is None
    assert bench.attempts(job_id) == [(n, "lost") for n in range(1, MAX_CRASHES + 1)]
    assert [event.event for event in bench.rows("events", subject_id=job_id)] == ["quarantined"]
    assert (bench.count("lost"), bench.count("quarantined")) == (MAX_CRASHES, 1)


def test_only_the_guilty_are_quarantined(bench):
    ids = bench.put(3)
    bench.run("UPDATE queue SET attempt = 2, crashes = 2, suspected = 2 WHERE id = :id", id=ids[1])
    lease = bench.open()
    assert len(bench.claim(lease)) == 3
    assert fleet.end_process(bench.ctx, "here", 1, "killed by signal 9") == 3
    assert {bench.job(job_id).state for job_id in ids} == {JobState.QUEUED}, "any of the three may have been the cause"
    bench.run("UPDATE queue SET available_at = now() + CASE id WHEN :id THEN interval '0' ELSE '1 hour' END", id=ids[1])
    assert [claim.id for claim in bench.claim(bench.open("w2", pid=2))] == [ids[1]]
    assert fleet.end_process(bench.ctx, "here", 2, "killed by signal 9") == 1
    states = [bench.job(job_id).state for job_id in ids]
    assert states == [JobState.QUEUED, JobState.QUARANTINED, JobState.QUEUED]


def test_a_quarantined_job_can_be_released_and_goes_on_counting(bench):
    test_a_job_under_which_workers_are_lost_is_quarantined(bench, "infer")
    (job_id,) = [row.id for row in bench.rows("jobs")]
    job = job_services.release_job(bench.ctx, bench.caller, job_id)
    assert (job.state, job.error, job.finished_at) == (JobState.QUEUED, None, None)
    with pytest.raises(Conflict) as refused:
        job_services.release_job(bench.ctx, bench.caller, job_id)
    assert refused.value.code == "job_not_quarantined"
    lease = bench.open("again")
    (claim,) = bench.claim(lease)
    assert (claim.attempt, claim.crashes) == (MAX_CRASHES + 1, 0)
    bench.complete(lease, [claim])
    job = bench.job(job_id)
    assert (job.state, job.attempts, job.crashes) == (JobState.SUCCEEDED, 1, MAX_CRASHES)


def test_a_process_that_ended_cleanly_has_nothing_to_end(bench):
    bench.put()
    lease = bench.open(pid=77)
    bench.claim(lease)
    assert fleet.end_process(bench.ctx, "here", 78, "killed") == 0
    assert fleet.end_process(bench.ctx, "elsewhere", 77, "killed") == 0
    assert bench.rows("queue")[0].state == "running"
    assert fleet.end_process(bench.ctx, "here", 77, "killed") == 1
    assert fleet.end_process(bench.ctx, "here", 77, "killed") == 0


def test_a_row_whose_lease_is_gone_is_found(bench):
    (job_id,) = bench.put()
    lease = bench.open()
    bench.claim(lease)
    bench.run("DELETE FROM leases")
    work.reap(bench.ctx)
    assert (bench.job(job_id).state, bench.job(job_id).crashes) == (JobState.QUEUED, 1)


def test_one_reaper_at_a_time(bench):
    bench.put()
    lease = bench.open()
    bench.claim(lease)
    _silence(bench, lease)
    with bench.ctx.db.transaction() as tx:
        assert leases.reap(tx, ttl_s=30, rule=make_loss_rule(bench.ctx)).leases == 1
        assert work.reap(bench.ctx) == 0, "another transaction reaps"
    assert work.reap(bench.ctx) == 0
    assert bench.attempts(bench.rows("jobs")[0].id) == [(1, "lost")]


def test_many_reapers_count_each_loss_once(bench):
    ids = bench.put(50)
    lease = bench.open()
    bench.claim(lease)
    _silence(bench, lease)
    start = threading.Barrier(6)

    def reap() -> int:
        start.wait()
        return upkeep.tick(bench.ctx).leases_ended

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(lambda _: reap(), range(6))) == 1
    assert [row.crashes for row in bench.rows("queue")] == [1] * len(ids)
    assert bench.count("lost") == len(ids)


def test_the_replica_of_a_lost_worker_has_failed(bench):
    lease = bench.open()
    replica = work.record_replica(bench.ctx, worker="w1", model="reader", device="cpu", state="loading")
    work.record_replica(bench.ctx, replica, worker="w1", model="reader", device="cpu", state="ready", lease_id=lease)
    work.end_lease(bench.ctx, lease, "killed", clean=False)
    row = bench.row("replicas", id=replica)
    assert (row.state, row.ended_at is not None) == ("failed", True)
    assert row.error["code"] == "worker_lost", "and says so"
    work.record_replica(bench.ctx, replica, worker="w1", model="reader", device="cpu", state="ready")
    assert bench.row("replicas", id=replica).state == "failed", "what has ended stays ended"
