"""A page whose answer is refused: rung by rung, fenced, counted, and ended by its own text or its last error."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from batchinfer.domain.jobs import JobState
from batchinfer.domain.quality import make_seed
from batchinfer.domain.retries import RetryClass
from batchinfer.errors import Failure
from batchinfer.services import checking, climbing, jobs, models, work
from batchinfer.store.claims import INFER, PREPARE
from tests.page_runs import make_page_run

MODEL, LARGER = "reader", "larger"


@pytest.fixture
def make_run(bench, tmp_path):
    models.register_model(bench.ctx, LARGER, "/nowhere", "r2", {})
    return lambda **pipeline: make_page_run(bench.ctx, bench.caller, tmp_path, model=MODEL, **pipeline)


def refuse(claim, code="output_empty"):
    error = Failure("It is refused.", code=code)
    return replace(work.Ending(claim.id, claim.attempt, error.as_dict()), retry=RetryClass.MODEL_OUTPUT)


def climb(bench, lease, *, model=MODEL, kind=INFER, code="output_empty"):
    """Claim the one page there is and refuse its answer."""
    (claim,) = bench.claim(lease, kinds=[kind], model=model)
    return work.fail(bench.ctx, lease, [refuse(claim, code)])


def test_each_rung_is_what_it_says_and_no_more(bench, make_run) -> None:
    run = make_run(ladder=[{"temperature": 0.5}, {"model": LARGER}, {"temperature": 0.9}], fallback="none")
    (job_id,) = run.put()
    lease = bench.open()
    seen = []
    for model in (MODEL, MODEL, LARGER, MODEL):
        row = bench.row("jobs", id=job_id)
        sampling = row.prompt["sampling"]
        seen.append((row.prompt["quality"]["rung"], sampling["temperature"], sampling["seed"], row.model))
        group = climb(bench, lease, model=model)
    assert seen == [
        (0, 0.0, None, MODEL), (1, 0.5, make_seed(job_id, 1), MODEL), (2, 0.0, None, LARGER),
        (3, 0.9, make_seed(job_id, 3), MODEL),
    ]  # fmt: skip
    assert group.failed == {job_id}, "no more tries than rungs and one"
    job = bench.job(job_id)
    assert (job.state, job.attempts, job.error["code"]) == (JobState.FAILED, 4, "output_empty")
    assert bench.attempts(job_id) == [(1, "retry"), (2, "retry"), (3, "retry"), (4, "failed")]
    errors = [attempt.error["code"] for attempt in jobs.list_attempts(bench.ctx, bench.caller, job_id)]
    assert errors == ["output_empty"] * 4
    document = bench.row("documents", id=run.document_id)
    assert (document.jobs_ended, document.jobs_failed) == (1, 1)


def test_another_deployment_answers_and_is_counted(bench, make_run, monkeypatch) -> None:
    (job_id,) = make_run(ladder=[{"model": LARGER}]).put()
    lease = bench.open()
    assert climb(bench, lease).retried == {job_id}
    assert bench.row("queue", id=job_id).model == LARGER
    (claim,) = bench.claim(lease, model=LARGER)
    work.complete_group(bench.ctx, lease, [replace(bench.outcome(claim), model=LARGER)])
    job = bench.job(job_id)
    assert (job.state, job.model, job.result["model"], job.attempts) == (JobState.SUCCEEDED, LARGER, LARGER, 2)
    (used,) = bench.rows("usage", jobs=1)
    assert used.model == LARGER
    bench.run("DELETE FROM ticks WHERE name = 'counted'")
    for table, column in (("minutes", "minute"), ("jobs", "finished_at"), ("results", "created_at"),
                          ("attempts", "finished_at")):  # fmt: skip
        bench.run(f"UPDATE {table} SET {column} = {column} - interval '1 minute'")  # noqa: S608
    monkeypatch.setattr(checking, "MORE_CHECKS", [])
    assert checking.check_counters(bench.ctx) == []


def test_a_rung_that_draws_goes_back_to_a_cpu_worker(bench, make_run) -> None:
    run = make_run(ladder=[{"rotate": 90, "dpi": 300}, {"temperature": 0.3}], render={"dpi": 100, "max_side": 900})
    (job_id,) = run.put()
    lease, cpu = bench.open(), bench.open("cpu")
    climb(bench, lease)
    row = bench.row("queue", id=job_id)
    assert (row.kind, row.state, row.released, row.attempt) == (PREPARE, "queued", 1, 1)
    assert bench.job(job_id).state is JobState.PREPARING
    (claim,) = bench.claim(cpu, kinds=[PREPARE], model=None)
    (piece,) = work.load_claims(bench.ctx, [claim])
    (image,) = piece.prompt["images"]
    assert (image["document"], image["page"], image["normal"]) == (run.document_id.hex, 1, None)
    assert image["render"] == {"dpi": 300, "max_side": 900, "rotate": 90}
    assert piece.documents == {run.document_id.hex: bench.ctx.blobs.path(claim.tenant_id, "0" * 64)}
    drawn = {**image, "normal": {"sha256": "2" * 64, "media_type": "image/png", "width": 9, "height": 9}}
    assert work.mark_prepared(bench.ctx, cpu, claim, [drawn])
    climb(bench, lease)
    (back,) = bench.row("jobs", id=job_id).prompt["images"]
    assert back["normal"]["sha256"] == "1" * 64, "the next rung says nothing of drawing"
    assert bench.row("queue", id=job_id).kind == INFER
    bench.complete(lease, bench.claim(lease))
    assert (bench.job(job_id).state, bench.job(job_id).attempts) == (JobState.SUCCEEDED, 3)


def use_up(bench, run):
    """A page without a rung left, and a CPU worker's claim of it."""
    (job_id,) = run.put()
    assert climb(bench, bench.open()).retried == {job_id}
    cpu = bench.open("cpu")
    (claim,) = bench.claim(cpu, kinds=[PREPARE], model=None)
    return job_id, cpu, claim


def test_the_pages_own_text_stands_in(bench, make_run) -> None:
    run = make_run(ladder=[], fallback="text_layer")
    job_id, cpu, claim = use_up(bench, run)
    (piece,) = work.load_claims(bench.ctx, [claim])
    assert piece.documents == {run.document_id.hex: bench.ctx.blobs.path(claim.tenant_id, "0" * 64)}
    assert climbing.fall_back(bench.ctx, cpu, claim, "what the PDF says")
    job = bench.job(job_id)
    assert (job.state, job.result["text"], job.result["engine"], job.attempts) == (
        JobState.SUCCEEDED, "what the PDF says", "text_layer", 1,
    )  # fmt: skip
    assert (job.usage["total_tokens"], bench.count("succeeded"), bench.count("completion_tokens")) == (0, 1, 0)
    document = bench.row("documents", id=run.document_id)
    assert (document.jobs_ended, document.jobs_failed, document.pages_fallback) == (1, 0, 1)
    assert (run.look().counts.pages_fallback, run.look().batch.counts.completed) == (1, 1)
    assert climbing.fall_back(bench.ctx, cpu, claim, "again"), "repeated after a lost answer it harms nothing"
    assert bench.row("documents", id=run.document_id).jobs_ended == 1


def test_without_a_text_the_last_error_stands(bench, make_run) -> None:
    job_id, cpu, claim = use_up(bench, make_run(ladder=[]))
    assert not climbing.fall_back(bench.ctx, cpu, claim, " .,- \n")
    (piece,) = work.load_claims(bench.ctx, [claim])
    error = piece.prompt["quality"]["error"]
    work.fail(bench.ctx, cpu, [work.Ending(claim.id, claim.attempt, error)])
    job = bench.job(job_id)
    assert (job.state, job.error["code"], job.attempts) == (JobState.FAILED, "output_empty", 1)


def test_another_worker_cannot_end_it_with_a_text(bench, make_run) -> None:
    job_id, _, claim = use_up(bench, make_run(ladder=[]))
    other = bench.open("other")
    assert climbing.fall_back(bench.ctx, other, claim, "not yours")
    assert bench.job(job_id).state is JobState.PREPARING
    assert bench.rows("results") == []


def test_the_fence_keeps_a_page_from_climbing_twice(bench, make_run) -> None:
    (job_id,) = make_run().put()
    lease, late = bench.open(), bench.open("late")
    (old,) = bench.claim(late)
    work.release(bench.ctx, late)
    assert climb(bench, lease).retried == {job_id}
    before = bench.row("jobs", id=job_id).prompt
    assert work.fail(bench.ctx, late, [refuse(old)]).fenced == {job_id}
    assert bench.row("jobs", id=job_id).prompt == before


def test_a_climb_whose_answer_was_lost_is_told_from_a_refused_one(bench, make_run) -> None:
    (job_id,) = make_run().put()
    lease = bench.open()
    (claim,) = bench.claim(lease)
    assert work.fail(bench.ctx, lease, [refuse(claim)]).retried == {job_id}
    again = work.fail(bench.ctx, lease, [refuse(claim)])
    assert (again.retried, again.landed) == ({job_id}, {job_id})
    assert bench.row("jobs", id=job_id).prompt["quality"]["rung"] == 1


def test_a_cancel_and_a_climb_at_once_leave_one_truth(bench, make_run) -> None:
    ids = make_run().put(8)
    lease = bench.open()
    claims = bench.claim(lease)
    groups = []
    climbing_thread = threading.Thread(
        target=lambda: groups.append(work.fail(bench.ctx, lease, [refuse(claim) for claim in claims]))
    )
    climbing_thread.start()
    for job_id in ids:
        jobs.cancel_job(bench.ctx, bench.caller, job_id)
    climbing_thread.join(60)
    (group,) = groups
    assert group.retried | group.fenced == set(ids)
    assert bench.rows("queue", kind=INFER) == []
    for job_id in ids:
        row = bench.row("jobs", id=job_id)
        assert row.final_state == "cancelled"
        assert row.prompt["quality"]["rung"] == int(job_id in group.retried)


def test_a_fault_of_ours_has_its_own_tries_on_every_rung(bench, make_run) -> None:
    (job_id,) = make_run(ladder=[{"temperature": 0.1}], fallback="none").put()
    lease = bench.open()
    for retried in (True, True):
        bench.make_due()
        (claim,) = bench.claim(lease)
        assert bool(work.fail(bench.ctx, lease, [bench.ending(claim, transient=True)]).retried) is retried
    bench.make_due()
    assert climb(bench, lease).retried == {job_id}
    (claim,) = bench.claim(lease)
    assert work.fail(bench.ctx, lease, [bench.ending(claim, transient=True)]).retried == {job_id}
    bench.make_due()
    bench.complete(lease, bench.claim(lease))
    assert bench.job(job_id).attempts == 5


def test_a_page_of_a_paused_run_waits_on_its_rung(bench, make_run) -> None:
    run = make_run()
    (job_id,) = run.put()
    lease = bench.open()
    (claim,) = bench.claim(lease)
    bench.run("UPDATE batches SET paused_at = now() WHERE id = :id", id=run.id)
    assert work.fail(bench.ctx, lease, [refuse(claim)]).retried == {job_id}
    assert bench.row("queue", id=job_id).state == "paused"


def test_a_job_of_no_run_is_retried_as_ever(bench) -> None:
    (job_id,) = bench.put()
    lease = bench.open()
    assert climb(bench, lease).retried == {job_id}
    assert bench.row("queue", id=job_id).available_at > bench.row("queue", id=job_id).created_at
    bench.make_due()
    assert climb(bench, lease).failed == {job_id}


def test_an_answer_from_a_rung_serves_the_same_page_again(bench, make_run) -> None:
    """It is kept under what was asked for at first; another deployment's is not."""
    ladder = [{"temperature": 0.5}, {"model": LARGER}]
    first, moved = make_run(ladder=ladder).put(2)
    bench.run("UPDATE jobs SET reuse_key = 'asked'")
    lease = bench.open()
    claims = {claim.id: claim for claim in bench.claim(lease)}
    work.fail(bench.ctx, lease, [refuse(claim) for claim in claims.values()])
    claims = {claim.id: claim for claim in bench.claim(lease)}
    bench.complete(lease, [claims[first]])
    work.fail(bench.ctx, lease, [refuse(claims[moved])])
    assert bench.row("answers", key="asked").job_id == first
    assert bench.row("jobs", id=moved).reuse_key is None
