"""How work ends: exactly once, by whoever commits first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.jobs import JobState, Usage
from batchinfer.domain.retries import RetryClass
from batchinfer.services import upkeep, work
from batchinfer.store import endings
from batchinfer.store.claims import PREPARE, Outcome


def test_a_completed_job_has_its_result_and_no_queue_row(bench):
    (job_id,) = bench.put()
    lease = bench.open()
    (claim,) = bench.claim(lease)
    group = bench.complete(lease, [claim])
    assert group == work.Group(frozenset({job_id}), frozenset(), frozenset(), frozenset())
    job = bench.job(job_id)
    assert job.state is JobState.SUCCEEDED
    assert job.result == {
        "text": "read", "finish_reason": "stop", "model": "reader", "revision": "r1", "engine": "fake",
        "versions": None,
    }  # fmt: skip
    assert job.usage["total_tokens"] == 15
    assert (job.attempts, job.crashes) == (1, 0)
    assert job.created_at <= job.started_at <= job.finished_at
    assert bench.row("queue", id=job_id) is None
    assert bench.attempts(job_id) == [(1, "succeeded")]
    assert bench.row("attempts", job_id=job_id).worker == "w1"
    counted = ("succeeded", "prompt_tokens", "completion_tokens", "images", "failed")
    assert [bench.count(name) for name in counted] == [1, 10, 5, 1, 0]


def test_a_group_mixes_results_errors_and_retries(bench):
    bench.put(6)
    lease = bench.open()
    a, b, c, d, e, f = bench.claim(lease)
    group = work.complete_group(
        bench.ctx,
        lease,
        [bench.outcome(a), bench.outcome(b)],
        [bench.ending(c), bench.ending(d, transient=True), bench.ending(e), bench.ending(f, transient=True)],
    )
    assert group == work.Group(frozenset({a.id, b.id}), frozenset({c.id, e.id}), frozenset({d.id, f.id}), frozenset())
    assert bench.job(c.id).error["code"] == "went_wrong"
    assert [bench.count(name) for name in ("succeeded", "failed", "retried")] == [2, 2, 2]
    assert bench.job(d.id).state is JobState.QUEUED
    assert bench.job(d.id).error is None


@pytest.mark.parametrize("forged", ["lease", "attempt", "state", "id"])
def test_the_fence_refuses_whoever_does_not_hold_the_row(bench, forged):
    bench.put()
    lease = bench.open()
    (claim,) = bench.claim(lease)
    outcome, ending = bench.outcome(claim), bench.ending(claim)
    if forged == "lease":
        lease = uuid4()
    elif forged == "attempt":
        outcome, ending = replace(outcome, attempt=2), replace(ending, attempt=2)
    elif forged == "id":
        stranger = new_id()
        outcome, ending = replace(outcome, id=stranger), replace(ending, id=stranger)
    else:
        work.release(bench.ctx, lease)
    for group in (
        work.complete_group(bench.ctx, lease, [outcome]),
        work.fail(bench.ctx, lease, [ending]),
        work.fail(bench.ctx, lease, [replace(ending, retry=RetryClass.TRANSIENT)]),
    ):
        assert group.fenced == {outcome.id}
        assert not group.completed | group.failed | group.retried
    assert bench.rows("results") == []
    assert bench.job(claim.id).state in {JobState.RUNNING, JobState.QUEUED}
    assert bench.count("succeeded") == bench.count("failed") == bench.count("retried") == 0


def test_a_zombie_is_refused_and_the_new_holder_completes(bench):
    (job_id,) = bench.put()
    zombie = bench.open("zombie")
    (old,) = bench.claim(zombie)
    work.end_lease(bench.ctx, zombie, "silent", clean=False)
    bench.make_due()
    alive = bench.open("alive")
    (new,) = bench.claim(alive)
    assert (new.attempt, new.crashes) == (2, 1)
    assert bench.complete(zombie, [old]).fenced == {job_id}
    assert bench.complete(alive, [new]).completed == {job_id}
    assert bench.complete(zombie, [old]).fenced == {job_id}
    assert [(row.attempt, row.lease_id) for row in bench.rows("results")] == [(2, alive)]
    assert bench.attempts(job_id) == [(1, "lost"), (2, "succeeded")]
    job = bench.job(job_id)
    assert (job.attempts, job.crashes) == (1, 1)


def test_one_refused_row_does_not_hold_up_its_group(bench):
    ids = bench.put(3)
    lease = bench.open()
    claims = bench.claim(lease)
    with bench.ctx.db.transaction() as tx:
        endings.cancel(tx, DEFAULT_TENANT, [ids[1]])
    group = bench.complete(lease, claims)
    assert group.completed == {ids[0], ids[2]}
    assert group.fenced == {ids[1]}
    assert bench.job(ids[1]).state is JobState.CANCELLED
    assert bench.count("succeeded") == 2


def test_writing_a_group_again_tells_what_landed_from_what_was_refused(bench):
    """After a commit whose outcome is unknown, the same group is written again."""
    bench.put(4)
    lease = bench.open()
    a, b, c, d = bench.claim(lease)
    with bench.ctx.db.transaction() as tx:
        endings.cancel(tx, DEFAULT_TENANT, [d.id])
    group = ([bench.outcome(a), bench.outcome(d)], [bench.ending(b), bench.ending(c, transient=True)])
    first = work.complete_group(bench.ctx, lease, *group)
    again = work.complete_group(bench.ctx, lease, *group)
    assert first == again == work.Group(frozenset({a.id}), frozenset({b.id}), frozenset({c.id}), frozenset({d.id}))
    assert (first.landed, again.landed) == (frozenset(), {a.id, b.id, c.id})
    assert [bench.count(name) for name in ("succeeded", "failed", "retried")] == [1, 1, 1]
    assert len(bench.rows("results")) == 1


def test_a_large_group_lands_whole(bench):
    ids = bench.put(256)
    lease = bench.open()
    group = bench.complete(lease, bench.claim(lease, 256))
    assert group.completed == set(ids)
    assert bench.rows("queue") == []
    assert len(bench.rows("results")) == len(bench.rows("attempts")) == bench.count("succeeded") == 256


def test_what_a_model_says_is_stored_even_where_postgres_could_not(bench):
    (job_id,) = bench.put()
    lease = bench.open()
    (claim,) = bench.claim(lease)
    outcome = Outcome(
        claim.id, 1, "a\x00b\ud800c", "stop", Usage(), "reader", "r1", "fake",
        timings={"prefill": float("nan"), "decoding": 0.5}, logprobs=[{"token": "\x00", "logprob": float("-inf")}],
    )  # fmt: skip
    assert work.complete_group(bench.ctx, lease, [outcome]).completed == {job_id}
    job = bench.job(job_id)
    assert job.result["text"] == "a\ufffdb\ufffdc"
    assert job.result["logprobs"] == [{"token": "\ufffd", "logprob": None}]
    assert job.timings == {"prefill": None, "decoding": 0.5}


def test_failing_while_preparing_ends_the_job_without_a_paid_try(bench):
    (job_id,) = bench.put(kind=PREPARE)
    lease = bench.open()
    (claim,) = bench.claim(lease, kinds=[PREPARE])
    assert bench.job(job_id).state is JobState.PREPARING
    assert work.fail(bench.ctx, lease, [bench.ending(claim)]).failed == {job_id}
    job = bench.job(job_id)
    assert (job.state, job.attempts, job.started_at) == (JobState.FAILED, 0, None)
    assert bench.attempts(job_id) == [(1, "failed")]


def test_a_claim_of_preparing_cannot_be_completed(bench):
    (job_id,) = bench.put(kind=PREPARE)
    lease = bench.open()
    (claim,) = bench.claim(lease, kinds=[PREPARE])
    assert bench.complete(lease, [claim]).fenced == {job_id}
    assert bench.job(job_id).state is JobState.PREPARING


def test_nothing_succeeds_after_its_deadline(bench):
    (job_id,) = bench.put()
    lease = bench.open()
    (claim,) = bench.claim(lease)
    bench.run("UPDATE queue SET expires_at = now() - interval '1 millisecond'")
    assert bench.complete(lease, [claim]).fenced == {job_id}
    assert upkeep.expire(bench.ctx) == 1
    job = bench.job(job_id)
    assert (job.state, job.error["code"]) == (JobState.EXPIRED, "expired")
    assert bench.attempts(job_id) == [(1, "expired")]
    assert [event.event for event in bench.rows("events", subject_id=job_id)] == ["expired"]
    assert bench.count("expired") == 1
    assert upkeep.expire(bench.ctx) == 0


def test_only_what_is_overdue_expires(bench):
    soon = datetime.now(UTC) + timedelta(hours=1)
    waiting = bench.put(expires_at=soon)[0]
    forever = bench.put()[0]
    assert upkeep.expire(bench.ctx) == 0
    assert bench.job(waiting).state is bench.job(forever).state is JobState.QUEUED
    assert bench.job(waiting).expires_at == soon


def test_cancel_and_complete_race_to_one_end(bench):
    """Whoever commits first is the truth, and both are told the same."""
    rounds = 60
    bench.put(rounds)
    lease = bench.open()
    claims = bench.claim(lease, rounds)
    start = threading.Barrier(2)

    def complete() -> set:
        done = set()
        for claim in claims:
            start.wait()
            done |= bench.complete(lease, [claim]).completed
        return done

    def cancel() -> set:
        done = set()
        for claim in claims:
            start.wait()
            with bench.ctx.db.transaction() as tx:
                done |= {row.id for row in endings.cancel(tx, DEFAULT_TENANT, [claim.id])}
        return done

    with ThreadPoolExecutor(2) as pool:
        completed, cancelled = (future.result() for future in [pool.submit(complete), pool.submit(cancel)])
    assert completed | cancelled == {claim.id for claim in claims}
    assert not completed & cancelled
    assert {row.job_id for row in bench.rows("results")} == completed
    for claim in claims:
        state = JobState.SUCCEEDED if claim.id in completed else JobState.CANCELLED
        assert bench.job(claim.id).state is state
    assert (bench.count("succeeded"), bench.count("cancelled")) == (len(completed), len(cancelled))


def test_groups_that_overlap_with_a_reaper_never_wait_in_a_circle(bench):
    """The rows of a lease are wanted by its committer and by the reaper at once, in opposite order."""
    for number in range(8):
        bench.put(40)
        lease = bench.open(f"w{number}")
        claims = bench.claim(lease, 40)
        start = threading.Barrier(2)

        def complete(lease=lease, claims=claims, start=start):
            start.wait()
            return bench.complete(lease, claims[::-1])

        def end(lease=lease, start=start):
            start.wait()
            work.end_lease(bench.ctx, lease, "killed", clean=False)

        with ThreadPoolExecutor(2) as pool:
            group, _ = (future.result(timeout=60) for future in [pool.submit(complete), pool.submit(end)])
        assert len(group.completed) + len(group.fenced) == 40
    assert {row.state for row in bench.rows("queue")} <= {"queued"}
    assert len(bench.rows("results")) + len(bench.rows("queue")) == 320
