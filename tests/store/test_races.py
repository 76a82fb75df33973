"""Cancels and deadlines against workers at full speed: each job ends once, and whoever asked was told the truth."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.domain.jobs import JobState
from batchinfer.errors import Conflict
from batchinfer.services import jobs, quotas, upkeep, work
from batchinfer.store import backlog
from batchinfer.store.claims import INFER, PREPARE


def race(*runs):
    """Run together from one moment on; the answers in order. Each gets a function that waits for the others."""
    meet = threading.Barrier(len(runs))
    with ThreadPoolExecutor(len(runs)) as pool:
        return [future.result(timeout=250) for future in [pool.submit(run, meet.wait) for run in runs]]


def states(bench):
    """Each job's state as the rows say it, and how many results it has."""
    with bench.ctx.db.transaction() as tx:
        rows = tx.execute(
            text("""
            SELECT j.id, j.final_state, q.id IS NOT NULL AS queued, count(r.job_id) AS results
            FROM jobs j LEFT JOIN queue q ON q.id = j.id LEFT JOIN results r ON r.job_id = j.id GROUP BY 1, 2, 3
        """)
        )
        return {row.id: row for row in rows}


def check(bench, told):
    """The rows agree with what was told, and with each other and the counters."""
    found = states(bench)
    for job_id, row in found.items():
        assert (row.final_state is None) is row.queued
        assert row.results == (row.final_state == "succeeded")
        assert told.get(job_id, row.final_state) == row.final_state
    ends = Counter(row.final_state for row in found.values() if row.final_state)
    assert {name: bench.count(name) for name in ends} == ends
    return ends


@pytest.mark.parametrize("rounds", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_a_cancel_and_a_completion_race_and_the_answer_is_the_row(bench, rounds):
    """Through the services, as client and worker go: the client's 200 or 409 says what the row says."""
    bench.put(rounds)
    lease = bench.open()
    claims = bench.claim(lease, rounds)
    assert len(claims) == rounds

    def complete(meet):
        done = set()
        for claim in claims:
            meet()
            done |= bench.complete(lease, [claim]).completed
        return done

    def cancel(meet):
        answers = {}
        for claim in claims:
            meet()
            try:
                answers[claim.id] = jobs.cancel_job(bench.ctx, bench.caller, claim.id).state
            except Conflict:
                answers[claim.id] = JobState.SUCCEEDED
        return answers

    completed, answers = race(complete, cancel)
    assert {i for i, state in answers.items() if state is JobState.SUCCEEDED} == completed
    ends = check(bench, answers)
    assert ends.keys() <= {"succeeded", "cancelled"}
    assert len(ends) == 2, "the race went one way only: it proved nothing"


class Storm:
    """Clients that cancel everything, and workers that prepare, claim, complete, fail, give back and are lost."""

    def __init__(self, bench, ids):
        self.bench, self.ids = bench, ids
        self.over = threading.Event()

    def cancel(self, part):
        """Every second job, and what the client was told: cancelled, or how it had ended."""
        answers = {}
        for job_id in self.ids[part::2]:
            try:
                answers[job_id] = jobs.cancel_job(self.bench.ctx, self.bench.caller, job_id).state.value
            except Conflict as refused:
                answers[job_id] = next(state.value for state in JobState if f"as {state}." in refused.message)
        return answers

    def cancel_all(self, meet):
        try:
            with ThreadPoolExecutor(2) as pool:
                meet()
                one, two = pool.map(self.cancel, range(2))
            return one | two
        finally:
            self.over.set()

    def prepare(self, meet):
        lease = self.bench.open("cpu")
        meet()
        while not self.over.is_set():
            for claim in self.bench.claim(lease, 16, kinds=[PREPARE], model=None):
                work.mark_prepared(self.bench.ctx, lease, claim, [])

    def work_on(self, meet):
        lease = self.bench.open()
        meet()
        completed = set()
        while not self.over.is_set():
            claims = self.bench.claim(lease, 12)
            completed |= self.bench.complete(lease, claims[:8]).completed
            work.fail(self.bench.ctx, lease, [self.bench.ending(claim) for claim in claims[8:10]])
            work.release(self.bench.ctx, lease, claims[10:])
        return completed

    def lose(self, meet):
        meet()
        while not self.over.is_set():
            lease = self.bench.open()
            self.bench.claim(lease, 4)
            work.end_lease(self.bench.ctx, lease, "killed", clean=False)


@pytest.mark.parametrize("number", [600, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_storm_of_cancels_over_jobs_in_all_states(bench, number):
    ids = [i for part in range(10) for i in bench.put(number // 10, kind=PREPARE if part % 3 == 0 else INFER)]
    with bench.ctx.db.transaction() as tx:
        backlog.count_jobs(tx, {DEFAULT_TENANT: number})
    storm = Storm(bench, random.Random(7).sample(ids, len(ids)))
    answers, one, two, _, _ = race(storm.cancel_all, storm.work_on, storm.work_on, storm.prepare, storm.lose)
    assert answers.keys() == set(ids)
    ends = check(bench, answers)
    assert {i for i, state in answers.items() if state == "succeeded"} == one | two
    assert ends.total() == number
    assert min(ends["cancelled"], ends["succeeded"], ends["failed"]) > 0, "the storm met too few states"
    assert {"lost", "released", "cancelled"} <= {row.outcome for row in bench.rows("attempts")}
    assert bench.rows("queue") == [], "every slot and row is free"
    assert quotas.correct_counts(bench.ctx) == 0


def test_deadlines_pass_while_jobs_run_and_wait(bench):
    """Deadlines over two seconds, two workers, a ticker: expired or succeeded, never after its time, never both."""
    ids = bench.put(160)
    bench.run("UPDATE queue SET expires_at = now() + make_interval(secs => 2 * random())")
    bench.run("UPDATE jobs j SET expires_at = q.expires_at FROM queue q WHERE q.id = j.id")
    leases = [bench.open(f"w{n}", pid=n) for n in range(2)]
    over = threading.Event()

    def work_on(lease):
        def run(meet):
            meet()
            done = set()
            while not over.is_set():
                claims = bench.claim(lease, 4)
                over.wait(0.05)
                done |= bench.complete(lease, claims).completed
            return done

        return run

    def tick(meet):
        meet()
        try:
            while len([row for row in states(bench).values() if row.final_state]) < len(ids):
                upkeep.expire(bench.ctx)
        finally:
            over.set()

    one, two, _ = race(work_on(leases[0]), work_on(leases[1]), tick)
    ends = check(bench, {})
    assert ends.keys() == {"succeeded", "expired"}
    assert ends.total() == len(ids)
    assert len(one | two) == ends["succeeded"]
    for row in bench.rows("jobs"):
        if row.final_state == "succeeded":
            assert row.finished_at < row.expires_at
            assert bench.row("results", job_id=row.id).created_at < row.expires_at
    events = Counter(row.subject_id for row in bench.rows("events", event="expired"))
    assert events == dict.fromkeys((row.id for row in bench.rows("jobs", final_state="expired")), 1)
