"""Lease, feeder, engine and committer together, in this process, against a real Postgres."""

from __future__ import annotations

import json
import threading
from typing import Any

from batchinfer.domain.jobs import JobState, Usage
from batchinfer.services import jobs, models, upkeep
from batchinfer.services import work as verbs
from batchinfer.store.claims import INFER, Outcome
from bench.chaos.proxy import Loss
from workers.committer import Finished
from workers.engine.protocol import Request

LONG = "[[steps:100000]]"


def start(rig: Any) -> Any:
    rig.crew.start(threading.Event())
    return rig


def test_each_job_gets_its_own_answer_once(make_rig, work, until) -> None:
    rig = start(make_rig(slots=4))
    ids = [work.submit(f"question {number}") for number in range(30)]
    for number, job in enumerate(work.wait(*ids)):
        assert job.state is JobState.SUCCEEDED
        assert json.loads(job.result["text"])["prompt"] == f"question {number}"
        assert (job.result["model"], job.result["revision"], job.result["engine"]) == (
            "fake-model",
            "r1",
            "fake",
        )
        assert job.attempts == 1
        assert job.usage["completion_tokens"] > 0
        assert "decoding" in job.timings
    # A result is seen in the database a moment before its worker has counted it and let go of it.
    until(lambda: rig.crew.describe()["completed"] == 30 and not rig.crew.lease.held.list_all(), "all are counted")


def test_claims_no_more_than_a_quarter_ahead(make_rig, work, until) -> None:
    for number in range(20):
        work.submit(f"{LONG} {number}")
    rig = start(make_rig(slots=4, steps_per_s=50))
    until(lambda: rig.station.count_inside() == 5, "slots and a quarter are taken")
    rig.crew.feeder.wake()
    rig.crew.heart.beat()
    assert len(rig.crew.lease.held) == 5
    until(lambda: rig.engine.stats().running == 4, "the slots are full, and no more")


def test_an_error_ends_one_job_alone(make_rig, work) -> None:
    start(make_rig(slots=4))
    bad, *good = [work.submit("[[fail:boom]]"), *(work.submit(f"good {number}") for number in range(6))]
    first, *others = work.wait(bad, *good)
    assert (first.state, first.error["code"], first.attempts) == (JobState.FAILED, "boom", 1)
    assert {job.state for job in others} == {JobState.SUCCEEDED}


def test_a_passing_error_is_tried_again(make_rig, work) -> None:
    start(make_rig(max_attempts=2))
    once, always = work.submit("[[once:flaky]]"), work.submit("[[transient:broken]]")
    passed, failed = work.wait(once, always)
    assert (passed.state, passed.attempts) == (JobState.SUCCEEDED, 2)
    assert work.outcomes(once) == ["retry", "succeeded"]
    assert (failed.state, failed.error["code"], failed.attempts) == (JobState.FAILED, "broken", 2)


def test_what_the_engine_refuses_fails_with_its_code(make_rig, work) -> None:
    start(make_rig(context_tokens=64))
    (job,) = work.wait(work.submit("hello", max_tokens=1000))
    assert (job.state, job.error["code"]) == (JobState.FAILED, "bad_max_tokens")
    assert job.error["type"] == "invalid_request_error"


def test_a_broken_prompt_and_a_missing_picture_fail_alone(make_rig, work, sql) -> None:
    broken, empty, missing, good = (work.submit(text) for text in ("a", "b", "c", "d"))
    sha256 = "0" * 64
    picture = {"sha256": sha256, "media_type": "image/png", "width": 8, "height": 8}
    content = [{"type": "text", "text": "c"}, {"type": "image", "index": 0}]
    sql("UPDATE jobs SET prompt = '[1, 2]' WHERE id = %s", broken)
    sql("UPDATE jobs SET prompt = '{\"images\": []}' WHERE id = %s", empty)
    sql(
        "UPDATE jobs SET prompt = prompt || %s::jsonb WHERE id = %s",
        json.dumps({"messages": [{"role": "user", "content": content}], "images": [{**picture, "normal": picture}]}),
        missing,
    )
    start(make_rig())
    found = work.wait(broken, empty, missing, good)
    assert [job.state for job in found] == [JobState.FAILED] * 3 + [JobState.SUCCEEDED]
    assert [job.error["code"] for job in found[:3]] == [
        "prompt_unreadable",
        "prompt_unreadable",
        "blob_missing",
    ]


def test_cancel_frees_the_slot(make_rig, work, until) -> None:
    rig = start(make_rig(slots=1, steps_per_s=50))
    job_id = work.submit(LONG)
    work.wait_running(job_id)
    assert jobs.cancel_job(work.ctx, work.caller, job_id).state is JobState.CANCELLED
    until(lambda: rig.station.count_inside() == 0, "the engine lets go")
    (job,) = work.wait(work.submit("next"))
    assert job.state is JobState.SUCCEEDED
    assert work.get(job_id).result is None
    assert rig.crew.describe()["fenced"] == 0


def test_a_cancel_that_nobody_asked_for_only_costs_time(make_rig, work, until) -> None:
    rig = start(make_rig(steps_per_s=100))
    job_id = work.submit("[[steps:200]]")
    work.wait_running(job_id)
    until(lambda: rig.engine.cancel(str(job_id)), "the engine has it")
    (job,) = work.wait(job_id)
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    assert work.outcomes(job_id) == ["released", "succeeded"]


def test_an_expired_job_stops_and_is_never_stored(make_rig, work, until) -> None:
    rig = start(make_rig(steps_per_s=50))
    job_id = work.submit(LONG, expires_in=8)
    work.wait_running(job_id)
    until(lambda: rig.station.count_inside() == 0, "the engine stops at the deadline")
    until(lambda: upkeep.tick(work.ctx).expired, "upkeep ends the row")
    assert work.state(job_id) is JobState.EXPIRED
    until(lambda: not rig.crew.lease.held.list_all(), "the heart lets it go")


def test_drain_gives_the_rest_back_unharmed(make_rig, work) -> None:
    rig = start(make_rig(slots=2, steps_per_s=50))
    ids = [work.submit(f"{LONG} {number}") for number in range(4)]
    work.wait_running(*ids[:2])
    rig.crew.drain(0.1, "test")
    assert [work.state(job_id) for job_id in ids] == [JobState.QUEUED] * 4
    assert [work.get(job_id).attempts for job_id in ids] == [0] * 4
    assert work.outcomes(ids[0]) == ["released"]


def test_drain_waits_for_what_ends_in_time(make_rig, work) -> None:
    rig = start(make_rig(slots=2, steps_per_s=100))
    job_id = work.submit("[[steps:250]]")
    work.wait_running(job_id)
    rig.crew.drain(100.0, "test")
    assert (work.state(job_id), work.outcomes(job_id)) == (JobState.SUCCEEDED, ["succeeded"])


def test_a_result_of_a_dead_lease_is_refused(make_rig, work, until) -> None:
    rig = start(make_rig(steps_per_s=50, heartbeat_s=60.0, lease_ttl_s=300.0))
    job_id = work.submit(LONG)
    work.wait_running(job_id)
    (claim,) = until(rig.crew.lease.held.list_all, "the claim is held")
    verbs.end_lease(work.ctx, claim.lease_id, "test", clean=False)
    outcome = Outcome(job_id, claim.attempt, "late", "stop", Usage(), "fake-model", "r1", "fake")
    rig.crew.committer.put(Finished(claim, outcome=outcome))
    until(lambda: rig.crew.describe()["fenced"] == 1, "the late result is refused")
    assert work.get(job_id).result is None
    rig.crew.heart.beat()  # learns of its death, drops the work and takes a new lease
    until(lambda: rig.crew.lease.find_sure() not in (None, claim.lease_id), "a new lease")
    until(lambda: work.state(job_id) is JobState.RUNNING, "the job runs again")
    assert (work.get(job_id).crashes, rig.crew.heart.lost_leases) == (1, 1)


def test_rows_of_a_claim_whose_answer_was_lost_are_given_back(make_rig, work, until) -> None:
    rig = start(make_rig())
    models.register_model(work.ctx, "other-model", "/nowhere/other", "r1")
    job_id = work.submit("hello", model="other-model")
    lease_id = rig.crew.lease.id
    assert verbs.claim(work.ctx, lease_id=lease_id, kinds=[INFER], model="other-model", limit=1)
    assert work.state(job_id) is JobState.RUNNING
    until(lambda: work.state(job_id) is JobState.QUEUED, "the heart gives it back")
    assert work.outcomes(job_id) == ["released"]


def test_a_duplicate_in_the_engine_is_given_back(make_rig, work) -> None:
    rig = make_rig(slots=2, steps_per_s=100)
    job_id = work.submit("[[steps:10]]", expires_in=600)
    message: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "[[steps:60]]"}]}
    rig.engine.submit(Request(id=str(job_id), messages=(message,)))
    start(rig)
    (job,) = work.wait(job_id)
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)


def test_a_crew_waits_for_the_database(make_rig, work, database_proxy) -> None:
    proxy, proxied = database_proxy
    proxy.cut()
    rig = make_rig(database_url=proxied)
    starting = threading.Thread(target=start, args=(rig,))
    starting.start()
    job_id = work.submit("patience")
    assert rig.crew.lease.id is None
    proxy.mend()
    starting.join(100)
    assert work.wait(job_id)[0].state is JobState.SUCCEEDED


def test_an_unknown_commit_is_resolved(make_rig, work, database_proxy) -> None:
    proxy, proxied = database_proxy
    rig = start(make_rig(database_url=proxied))
    proxy.lose_commits([Loss.AFTER], b"INSERT INTO results")
    (job,) = work.wait(work.submit("once and no more"))
    assert proxy.lost[Loss.AFTER] == 1
    rig.crew.committer.flush(100)
    counts = rig.crew.committer.counts
    assert (job.state, counts.completed, counts.fenced, counts.landed) == (JobState.SUCCEEDED, 1, 0, 1)
    assert work.outcomes(job.id) == ["succeeded"]


def test_results_wait_for_the_database(make_rig, work, database_proxy, until) -> None:
    proxy, proxied = database_proxy
    rig = start(make_rig(database_url=proxied, steps_per_s=50, lease_ttl_s=60.0))
    job_id = work.submit("[[steps:100]]")
    until(rig.station.count_inside, "the engine has it")
    proxy.cut()
    until(rig.crew.committer.list_pending, "the result waits")
    proxy.mend()
    (job,) = work.wait(job_id)
    assert (job.state, work.outcomes(job_id)) == (JobState.SUCCEEDED, ["succeeded"])


def test_a_worker_cut_off_for_too_long_is_replaced(make_rig, work, database_proxy, until) -> None:
    proxy, proxied = database_proxy
    rig = start(make_rig(database_url=proxied, steps_per_s=50, lease_ttl_s=5.0))
    work.ctx = make_rig(lease_ttl_s=5.0).ctx
    job_id = work.submit("[[steps:100]]")  # two seconds: its result is there well before the lease may be dead
    until(rig.station.count_inside, "the engine has it")
    proxy.cut()
    until(rig.crew.committer.list_pending, "the result waits")
    until(lambda: rig.crew.lease.find_sure() is None, "the worker knows that its lease may be dead")
    until(lambda: upkeep.tick(work.ctx).leases_ended == 1, "the lease is reaped")
    proxy.mend()
    (job,) = work.wait(job_id)
    assert job.state is JobState.SUCCEEDED
    # It may be given back in between: a suspect does not start while an older result waits to be written.
    assert [outcome for outcome in work.outcomes(job_id) if outcome != "released"] == ["lost", "succeeded"]
    assert (job.attempts, job.crashes) == (1, 1)
    until(
        lambda: rig.crew.describe()["fenced"] + rig.crew.describe()["dropped"] == 1,
        "the late result is refused",
    )
