"""How held rows come back, and what is counted when they do."""

from __future__ import annotations

import pytest

from batchinfer.domain.jobs import JobState
from batchinfer.services import jobs as job_services
from batchinfer.services import work
from batchinfer.store.claims import INFER, PREPARE

MAX_ATTEMPTS = 3


def test_a_transient_error_is_tried_again_until_no_try_is_left(bench):
    (job_id,) = bench.put()
    lease = bench.open()
    for number in range(1, MAX_ATTEMPTS + 1):
        bench.make_due()
        (claim,) = bench.claim(lease)
        assert claim.attempt == number
        group = work.fail(bench.ctx, lease, [bench.ending(claim, transient=True)])
        assert (group.retried, group.failed) == ((set(), {job_id}) if number == MAX_ATTEMPTS else ({job_id}, set()))
    job = bench.job(job_id)
    assert (job.state, job.attempts, job.crashes) == (JobState.FAILED, MAX_ATTEMPTS, 0)
    assert bench.attempts(job_id) == [(1, "retry"), (2, "retry"), (3, "failed")]
    assert [attempt.error["code"] for attempt in job_services.list_attempts(bench.ctx, bench.caller, job_id)] == [
        "went_wrong"
    ] * 3


def test_a_retry_waits_and_keeps_its_start(bench):
    ids = bench.put(40)
    lease = bench.open()
    claims = bench.claim(lease)
    work.fail(bench.ctx, lease, [bench.ending(claim, transient=True) for claim in claims])
    waits = [(row.available_at - row.leased_at).total_seconds() for row in bench.rows("queue")]
    assert len(waits) == len(ids)
    assert max(waits) <= 5
    assert len(set(waits)) > 30, "every wait is drawn by itself"
    job = bench.job(ids[0])
    assert (job.state, job.attempts) == (JobState.QUEUED, 1)
    assert job.started_at is not None


def test_a_released_row_is_due_at_once_and_counts_no_try(bench):
    first, second = bench.put(2)
    lease, other = bench.open("a"), bench.open("b")
    claims = bench.claim(lease)
    assert work.release(bench.ctx, lease, claims[:1]) == 1
    assert (bench.job(first).state, bench.job(first).attempts) == (JobState.QUEUED, 0)
    assert bench.job(second).state is JobState.RUNNING
    (again,) = bench.claim(other)
    assert (again.id, again.attempt, again.released) == (first, 2, 1)
    assert work.release(bench.ctx, lease, claims[:1]) == 0, "no longer this lease's to give back"
    assert work.release(bench.ctx, lease) == 1
    bench.complete(other, [again])
    assert (bench.job(first).attempts, bench.attempts(first)) == (1, [(1, "released"), (2, "succeeded")])


def test_tries_crashes_and_releases_add_up(bench):
    (job_id,) = bench.put()
    for number, how in enumerate(["release", "crash", "retry", "crash", "complete"], start=1):
        bench.make_due()
        lease = bench.open(f"w{number}")
        (claim,) = bench.claim(lease)
        assert claim.attempt == number
        if how == "release":
            work.release(bench.ctx, lease)
        elif how == "crash":
            work.end_lease(bench.ctx, lease, "killed", clean=False)
        elif how == "retry":
            work.fail(bench.ctx, lease, [bench.ending(claim, transient=True)])
        else:
            bench.complete(lease, [claim])
    job = bench.job(job_id)
    assert (job.state, job.attempts, job.crashes) == (JobState.SUCCEEDED, 2, 2)
    assert [outcome for _, outcome in bench.attempts(job_id)] == ["released", "lost", "retry", "lost", "succeeded"]
    assert (bench.count("lost"), bench.count("retried")) == (2, 1)


def test_a_prepared_job_is_ready_for_its_model_and_has_no_try_yet(bench):
    (job_id,) = bench.put(kind=PREPARE)
    cpu = bench.open("cpu")
    (claim,) = bench.claim(cpu, kinds=[PREPARE], model=None)
    normal = {"sha256": "1" * 64, "media_type": "image/png", "width": 3, "height": 2}
    images = [{"sha256": "0" * 64, "media_type": "image/png", "normal": normal}]
    assert work.mark_prepared(bench.ctx, cpu, claim, images)
    job = bench.job(job_id)
    assert (job.state, job.attempts, job.started_at) == (JobState.QUEUED, 0, None)
    assert job.prompt["images"] == images
    assert not work.mark_prepared(bench.ctx, cpu, claim, []), "only once"
    gpu = bench.open("gpu")
    (held,) = bench.claim(gpu)
    assert (held.id, held.kind, held.attempt) == (job_id, INFER, 2)
    assert bench.job(job_id).attempts == 1
    (loaded,) = work.load_claims(bench.ctx, [held])
    assert loaded.prompt["images"] == images
    assert [path.name for path in loaded.paths] == ["1" * 64]
    bench.complete(gpu, [held])
    assert bench.job(job_id).attempts == 1
    kinds = [(attempt.kind, attempt.outcome) for attempt in job_services.list_attempts(bench.ctx, bench.caller, job_id)]
    assert kinds == [("prepare", "succeeded"), ("infer", "succeeded")]


def test_what_preparing_cost_is_no_try_of_the_model(bench):
    (job_id,) = bench.put(kind=PREPARE)
    for how in ("retry", "crash", "crash", "done"):
        bench.make_due()
        cpu = bench.open(how)
        (claim,) = bench.claim(cpu, kinds=[PREPARE])
        if how == "retry":
            assert work.fail(bench.ctx, cpu, [bench.ending(claim, transient=True)]).retried
        elif how == "crash":
            work.end_lease(bench.ctx, cpu, "killed", clean=False)
        else:
            assert work.mark_prepared(bench.ctx, cpu, claim, [])
    assert (bench.job(job_id).attempts, bench.job(job_id).crashes) == (0, 2)
    gpu = bench.open("gpu")
    (held,) = bench.claim(gpu)
    assert (held.attempt, held.crashes) == (5, 0), "a fresh measure of crashes, the numbering goes on"
    assert work.fail(bench.ctx, gpu, [bench.ending(held, transient=True)]).retried
    assert (bench.job(job_id).attempts, bench.job(job_id).crashes) == (1, 2)


def test_preparing_is_fenced(bench):
    (job_id,) = bench.put(kind=PREPARE)
    cpu = bench.open("cpu")
    (claim,) = bench.claim(cpu, kinds=[PREPARE])
    job_services.cancel_job(bench.ctx, bench.caller, job_id)
    assert not work.mark_prepared(bench.ctx, cpu, claim, [{"sha256": "0" * 64, "normal": {"sha256": "1" * 64}}])
    assert bench.job(job_id).prompt["images"][0]["normal"] is None


def test_a_file_as_its_user_sent_it_is_never_prepared(bench):
    bench.put(kind=PREPARE)
    cpu = bench.open("cpu")
    (claim,) = bench.claim(cpu, kinds=[PREPARE])
    with pytest.raises(ValueError, match="normalised"):
        work.mark_prepared(bench.ctx, cpu, claim, [{"sha256": "0" * 64, "normal": None}])
    assert bench.job(claim.id).state is JobState.PREPARING


def test_a_claim_of_the_model_cannot_be_marked_prepared(bench):
    bench.put()
    lease = bench.open()
    (claim,) = bench.claim(lease)
    assert not work.mark_prepared(bench.ctx, lease, claim, [])
    assert bench.job(claim.id).state is JobState.RUNNING


def test_a_claim_whose_job_is_gone_fails_alone(bench):
    gone, here = bench.put(2)
    bench.run("DELETE FROM jobs WHERE id = :id", id=gone)
    lease = bench.open()
    loaded = work.load_claims(bench.ctx, bench.claim(lease))
    assert [entry.claim.id for entry in loaded] == [here]
    assert bench.row("queue", id=gone) is None
    assert bench.attempts(gone) == [(1, "failed")]
