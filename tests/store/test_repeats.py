"""Ended jobs that are tried again or deleted, by several at once too."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from batchinfer.domain.ids import JOB, show_id
from batchinfer.domain.jobs import JobState
from batchinfer.errors import Conflict, Forbidden, NotFound
from batchinfer.services import checking, repeats, work
from batchinfer.services import jobs as job_services
from batchinfer.services.context import Caller, Idempotency
from batchinfer.store.claims import PREPARE

KEY = Idempotency("POST", "/v1/jobs/{id}/retry", "same", b"x" * 32)


def put_failed(bench, **more):
    (job_id,) = bench.put(**more)
    lease = bench.open()
    work.fail(bench.ctx, lease, [bench.ending(claim) for claim in bench.claim(lease)])
    return job_id


def test_a_retry_is_a_new_job_of_the_same_prompt(bench):
    origin = put_failed(bench, expires_at=datetime.now(UTC) + timedelta(hours=3))
    bench.run("""UPDATE jobs SET prompt = '{"images": [], "channel": "c", "max_tokens": 7}', metadata = '{"a": "b"}'""")
    job, replayed = repeats.retry_job(bench.ctx, bench.caller, origin)
    assert (job.state, replayed, job.origin_id, job.metadata) == (JobState.QUEUED, False, origin, {"a": "b"})
    assert job.prompt == {"images": [], "max_tokens": 7}, "nobody listens to the old channel"
    assert timedelta(hours=2) < job.expires_at - job.created_at < timedelta(hours=4)
    first = bench.job(origin)
    assert (first.state, first.retry_id) == (JobState.FAILED, job.id)
    assert (bench.row("jobs", id=job.id).key_id, bench.count("submitted")) == (bench.caller.key_id, 1)
    assert [row.event for row in bench.rows("events", subject_id=origin)] == ["retried"]
    lease = bench.open()
    bench.complete(lease, bench.claim(lease))
    assert bench.job(job.id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
def test_only_what_ended_without_a_result_is_tried_again(bench, state):
    (job_id,) = bench.put()
    if state != "queued":
        lease = bench.open()
        claims = bench.claim(lease)
        if state == "succeeded":
            bench.complete(lease, claims)
    with pytest.raises(Conflict) as refused:
        repeats.retry_job(bench.ctx, bench.caller, job_id)
    assert refused.value.code == "job_not_repeatable"
    assert len(bench.rows("jobs")) == 1


def test_what_was_quarantined_runs_apart_when_it_is_tried_again(bench):
    (job_id,) = bench.put()
    lease = bench.open()
    bench.claim(lease)
    bench.run("UPDATE queue SET attempt = 9, crashes = 8, suspected = 8")
    work.end_lease(bench.ctx, lease, "killed", clean=False)
    assert bench.job(job_id).state is JobState.QUARANTINED
    job, _ = repeats.retry_job(bench.ctx, bench.caller, job_id)
    assert bench.row("queue", id=job.id).suspected == 2
    assert bench.job(job_id).state is JobState.QUARANTINED, "the old one stays as it ended"


def test_what_was_never_prepared_is_prepared(bench):
    (job_id,) = bench.put(kind=PREPARE)
    sha256 = bench.ctx.blobs.put(bench.caller.tenant_id, b"a picture")
    image = f'{{"images": [{{"sha256": "{sha256}", "media_type": "image/png", "normal": null}}]}}'
    bench.run("UPDATE jobs SET prompt = CAST(:image AS jsonb)", image=image)
    job_services.cancel_job(bench.ctx, bench.caller, job_id)
    with pytest.raises(Conflict) as refused:
        repeats.retry_job(bench.ctx, bench.caller, job_id)
    assert refused.value.code == "job_files_gone", "its blob has no row"
    bench.run(
        "INSERT INTO blobs (tenant_id, sha256, size_bytes, media_type) VALUES (:t, :s, 9, 'image/png')",
        t=bench.caller.tenant_id, s=sha256,
    )  # fmt: skip
    job, _ = repeats.retry_job(bench.ctx, bench.caller, job_id)
    assert job.state is JobState.PREPARING
    assert [row.sha256 for row in bench.rows("job_blobs", job_id=job.id)] == [sha256]


@pytest.mark.parametrize("key", [None, KEY], ids=["without a key", "with the same key"])
def test_many_who_retry_at_once_make_one_job(bench, key):
    origin = put_failed(bench)
    start = threading.Barrier(8)

    def retry(_):
        start.wait(60)
        try:
            return repeats.retry_job(bench.ctx, bench.caller, origin, key)
        except Conflict as refused:
            return refused.code, refused.message

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(retry, range(8)))
    (made,) = [row.id for row in bench.rows("jobs") if row.id != origin]
    if key:
        assert {job.id for job, _ in answers} == {made}
        assert sorted(replayed for _, replayed in answers) == [False] + [True] * 7
    else:
        refused = [answer for answer in answers if answer[0] == "job_retried"]
        assert len(refused) == 7
        assert all(show_id(JOB, made) in message for _, message in refused)
    assert bench.job(origin).retry_id == made
    assert bench.count("submitted") == 1


def test_a_retry_that_was_deleted_leaves_room_for_another(bench):
    origin = put_failed(bench)
    first, _ = repeats.retry_job(bench.ctx, bench.caller, origin)
    job_services.cancel_job(bench.ctx, bench.caller, first.id)
    with pytest.raises(Conflict):
        repeats.retry_job(bench.ctx, bench.caller, origin)
    second, _ = repeats.retry_job(bench.ctx, bench.caller, first.id)
    assert second.origin_id == first.id, "the newer one is tried again"
    repeats.delete_job(bench.ctx, bench.caller, first.id)
    third, _ = repeats.retry_job(bench.ctx, bench.caller, origin)
    assert bench.job(origin).retry_id == third.id


def test_a_deleted_job_leaves_its_counts_and_no_word(bench):
    (job_id,) = bench.put()
    lease = bench.open()
    (claim,) = bench.claim(lease)
    work.fail(bench.ctx, lease, [bench.ending(claim, transient=True)])
    bench.make_due()
    bench.complete(lease, bench.claim(lease))
    bench.run("UPDATE jobs SET metadata = '{\"a\": \"secret\"}', custom_id = 'secret'")
    repeats.delete_job(bench.ctx, bench.caller, job_id)
    for call in (bench.job, lambda i: repeats.delete_job(bench.ctx, bench.caller, i),
                 lambda i: repeats.retry_job(bench.ctx, bench.caller, i)):  # fmt: skip
        with pytest.raises(NotFound):
            call(job_id)
    job, result = bench.row("jobs", id=job_id), bench.row("results", job_id=job_id)
    assert (job.prompt, job.metadata, job.error, job.custom_id, job.final_state) == ({}, {}, None, None, "succeeded")
    assert (result.text, result.logprobs, result.usage["prompt_tokens"]) == ("", None, 10)
    assert [row.error for row in bench.rows("attempts", job_id=job_id)] == [None, None]
    assert bench.rows("job_blobs", job_id=job_id) == []
    assert [row.event for row in bench.rows("events", subject_id=job_id)] == ["deleted"]
    bench.run("UPDATE ticks SET ticked_at = now() - interval '2 hours' WHERE name = 'counted'")
    assert checking.check_counters(bench.ctx) == [], "what was counted still is what the rows say"


def test_what_has_not_ended_cannot_be_deleted(bench):
    (job_id,) = bench.put()
    with pytest.raises(Conflict) as refused:
        repeats.delete_job(bench.ctx, bench.caller, job_id)
    assert refused.value.code == "job_not_ended"
    assert bench.job(job_id).state is JobState.QUEUED


def test_who_reads_while_it_is_deleted_sees_all_or_nothing(bench):
    ids = bench.put(20)
    lease = bench.open()
    bench.complete(lease, bench.claim(lease))
    seen, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            for job_id in ids:
                try:
                    job = bench.job(job_id)
                except NotFound:
                    continue
                seen.append((job.state, (job.result or {}).get("text"), job.prompt))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for job_id in ids:
        repeats.delete_job(bench.ctx, bench.caller, job_id)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert {(state, text) for state, text, _ in seen} <= {(JobState.SUCCEEDED, "read")}
    assert all(prompt for _, _, prompt in seen)
    assert job_services.list_jobs(bench.ctx, bench.caller).data == []


def test_deleting_and_retrying_at_once_leave_one_truth(bench):
    for _ in range(5):
        origin = put_failed(bench)
        start = threading.Barrier(2)

        def meet(verb, origin=origin, start=start):
            start.wait(60)
            try:
                return verb(bench.ctx, bench.caller, origin)
            except NotFound:
                return "gone"

        with ThreadPoolExecutor(2) as pool:
            deleted, retried = pool.map(meet, (repeats.delete_job, repeats.retry_job))
        assert deleted is None
        if retried != "gone":
            assert bench.row("jobs", id=retried[0].id).prompt == {"messages": [], "images": []}
            job_services.cancel_job(bench.ctx, bench.caller, retried[0].id)


@pytest.mark.parametrize(("verb", "scope"), [(repeats.retry_job, "submit"), (repeats.delete_job, "cancel")])
def test_each_verb_asks_for_its_scope(bench, verb, scope):
    origin = put_failed(bench)
    caller = bench.caller
    less = Caller(caller.tenant_id, caller.key_id, caller.name, caller.scopes - {scope})
    with pytest.raises(Forbidden):
        verb(bench.ctx, less, origin)
