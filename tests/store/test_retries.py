"""Each class of error with its own cap, and waits that are drawn below their ceiling."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchinfer.domain.jobs import JobState
from batchinfer.domain.retries import RetryClass, RetryRule
from batchinfer.errors import Failure
from batchinfer.services import work
from batchinfer.services.losses import make_loss_rule
from batchinfer.store import leases, returns
from batchinfer.store.claims import Ending


@pytest.fixture
def fail_again(bench):
    """Fail a job with errors of a class until it is not tried again. Answers the tries it had."""

    def fail(job_id, retry_class, lease):
        for number in range(1, 200):
            bench.make_due()
            (claim,) = bench.claim(lease)
            assert claim.id == job_id
            error = Failure("It went wrong.", code="went_wrong").as_dict()
            group = work.fail(bench.ctx, lease, [Ending(claim.id, claim.attempt, error, retry_class)])
            if group.failed:
                return number
            assert group.retried == {job_id}
        return None

    return fail


@pytest.mark.parametrize(
    ("retry_class", "tries", "counted"),
    [
        (RetryClass.PERMANENT, 1, 1),
        (RetryClass.MODEL_OUTPUT, 2, 2),
        (RetryClass.TRANSIENT, 3, 3),
        (RetryClass.INFRASTRUCTURE, 50, 1),
    ],
)
def test_each_class_has_its_cap(bench, fail_again, retry_class, tries, counted):
    (job_id,) = bench.put()
    assert fail_again(job_id, retry_class, bench.open()) == tries
    job = bench.job(job_id)
    assert (job.state, job.attempts, job.crashes) == (JobState.FAILED, counted, 0)
    assert [outcome for _, outcome in bench.attempts(job_id)] == ["retry"] * (tries - 1) + ["failed"]


def test_what_is_not_the_jobs_fault_leaves_it_all_its_tries(bench, fail_again):
    (job_id,) = bench.put()
    lease = bench.open()
    for _ in range(5):
        bench.make_due()
        (claim,) = bench.claim(lease)
        error = Failure("It went wrong.", code="went_wrong").as_dict()
        work.fail(bench.ctx, lease, [Ending(claim.id, claim.attempt, error, RetryClass.INFRASTRUCTURE)])
    for _ in range(2):
        bench.make_due()
        crashing = bench.open("crashes")
        bench.claim(crashing)
        work.end_lease(bench.ctx, crashing, "killed", clean=False)
    assert bench.job(job_id).attempts == 0
    assert fail_again(job_id, RetryClass.TRANSIENT, lease) == 3


def test_an_error_of_another_class_counts_the_tries_before_it(bench):
    (job_id,) = bench.put()
    lease = bench.open()
    for retry_class, retried in ((RetryClass.TRANSIENT, True), (RetryClass.MODEL_OUTPUT, False)):
        bench.make_due()
        (claim,) = bench.claim(lease)
        group = work.fail(bench.ctx, lease, [replace(bench.ending(claim), retry=retry_class)])
        assert bool(group.retried) is retried
    assert bench.job(job_id).attempts == 2


def test_classes_can_be_mixed_in_one_group(bench):
    permanent, output, transient, ours = bench.put(4)
    lease = bench.open()
    claims = {claim.id: claim for claim in bench.claim(lease)}
    by_class = zip((permanent, output, transient, ours), list(RetryClass)[:4], strict=True)
    errors = [replace(bench.ending(claims[job_id]), retry=retry_class) for job_id, retry_class in by_class]
    group = work.fail(bench.ctx, lease, errors)
    assert (group.failed, group.retried) == ({permanent}, {output, transient, ours})
    assert {job_id: bench.job(job_id).attempts for job_id in (output, transient, ours)} == {
        output: 1, transient: 1, ours: 0
    }  # fmt: skip


@pytest.mark.parametrize("lost", [False, True])
def test_waits_are_drawn_below_the_ceiling_of_their_number(bench, lost):
    """Full jitter: of many rows some wait less than a fifth of the ceiling and some more than four."""
    rule = RetryRule(tries=100, first_wait_s=10.0, longest_wait_s=100.0)
    bench.put(120)
    lease = bench.open()
    claims = bench.claim(lease, 200)
    for number in (1, 2, 3, 4, 5, 60):
        bench.run(
            "UPDATE queue SET state = 'running', lease_id = :lease, attempt = :attempt, crashes = :crashes,"
            " leased_at = now()",
            lease=lease, attempt=number, crashes=number - 1 if lost else 0,
        )  # fmt: skip
        with bench.ctx.db.transaction() as tx:
            if lost:
                loss = replace(make_loss_rule(bench.ctx), waits=rule, max_crashes=100)
                back = leases.end_lease(tx, lease, "killed", rule=loss).requeued
            else:
                endings = [replace(bench.ending(claim), attempt=number) for claim in claims]
                back = returns.retry(tx, lease_id=lease, endings=endings, rule=rule)
        assert len(back) == 120
        bench.run("UPDATE leases SET dead = false")
        waits = [(row.available_at - row.leased_at).total_seconds() for row in bench.rows("queue")]
        ceiling = rule.find_ceiling_s(number)
        assert all(-1 <= wait <= ceiling + 1 for wait in waits), "now() of two transactions lies within a second"
        assert min(waits) < 0.2 * ceiling < 0.8 * ceiling < max(waits)
        assert len(set(waits)) > 100, "every wait is drawn by itself"
        bench.run("DELETE FROM attempts")
