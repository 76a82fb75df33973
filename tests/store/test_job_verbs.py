"""What users ask for: submit, look, list, wait, cancel; and that nobody sees another tenant's jobs."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.domain.prompts import JobRequest, Upload
from batchinfer.errors import BadImage, BadRequest, Conflict, Forbidden, NotFound, Unsupported
from batchinfer.services import jobs, work

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


def ask(*uploads, **more):
    """A valid request."""
    parts = [{"type": "text", "text": "Read this."}, *({"type": "image", "index": i} for i in range(len(uploads)))]
    values = {
        "model": "reader", "job_class": JobClass.NORMAL, "messages": ({"role": "user", "content": parts},),
        "uploads": uploads, "sampling": {"temperature": 0.0}, "max_tokens": 9, "stop": (), "response_format": None,
        "metadata": {"a": "b"}, "expires_in_s": None,
    }  # fmt: skip
    return JobRequest(**(values | more))


def upload(data=PNG, filename="a.png", param="messages.0.content.1.image_url"):
    return Upload(data=data, filename=filename, param=param)


def test_a_text_job_is_queued_at_once(bench):
    job, replayed = jobs.submit(bench.ctx, bench.caller, ask())
    assert not replayed
    assert (job.state, job.model, job.metadata, job.attempts) == (JobState.QUEUED, "reader", {"a": "b"}, 0)
    assert job.prompt == {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Read this."}]}], "images": [],
        "sampling": {"temperature": 0.0}, "max_tokens": 9, "stop": [], "response_format": None,
    }  # fmt: skip
    assert bench.row("queue", id=job.id).kind == "infer"
    assert bench.count("submitted") == 1
    assert bench.job(job.id) == job


def test_a_job_with_pictures_is_prepared_first_and_its_bytes_are_kept(bench):
    job, _ = jobs.submit(bench.ctx, bench.caller, ask(upload(), upload(PNG + b"2")))
    assert job.state is JobState.PREPARING
    shas = [image["sha256"] for image in job.prompt["images"]]
    assert [image["media_type"] for image in job.prompt["images"]] == ["image/png"] * 2
    assert [bench.ctx.blobs.read(bench.caller.tenant_id, sha) for sha in shas] == [PNG, PNG + b"2"]
    assert {row.sha256 for row in bench.rows("blobs")} == set(shas)
    (claim,) = bench.claim(bench.open(), kinds=["prepare"], model=None)
    (loaded,) = work.load_claims(bench.ctx, [claim])
    assert [path.read_bytes() for path in loaded.paths] == [PNG, PNG + b"2"]


@pytest.mark.parametrize(
    ("request_", "error", "code"),
    [
        (ask(model="nobody"), NotFound, "model_not_found"),
        (ask(upload(b"")), BadImage, "empty_image_file"),
        (ask(upload(b"GIF89a....")), Unsupported, "unsupported_media_type"),
        (ask(upload(b"plain text")), Unsupported, "unsupported_media_type"),
        (ask(upload(), upload(b"%PDF-1.7")), BadRequest, "document_not_alone"),
        (ask(upload(b"%PDF-1.7"), upload(b"II*\x00")), BadRequest, "document_not_alone"),
    ],
)
def test_what_cannot_be_served_leaves_nothing(bench, request_, error, code):
    with pytest.raises(error) as refused:
        jobs.submit(bench.ctx, bench.caller, request_)
    assert refused.value.code == code
    assert refused.value.param is not None
    assert bench.rows("jobs") == bench.rows("queue") == bench.rows("blobs") == []


@pytest.mark.parametrize(
    ("scope", "call"),
    [
        ("submit", lambda bench, caller: jobs.submit(bench.ctx, caller, ask())),
        ("read", lambda bench, caller: jobs.get_job(bench.ctx, caller, new_id())),
        ("read", lambda bench, caller: jobs.list_jobs(bench.ctx, caller)),
        ("read", lambda bench, caller: jobs.list_attempts(bench.ctx, caller, new_id())),
        ("cancel", lambda bench, caller: jobs.cancel_job(bench.ctx, caller, new_id())),
        ("admin", lambda bench, caller: jobs.release_job(bench.ctx, caller, new_id())),
    ],
)
def test_a_key_does_what_its_scopes_allow(bench, scope, call):
    limited = replace(bench.caller, scopes=bench.caller.scopes - {scope})
    with pytest.raises(Forbidden, match=scope):
        call(bench, limited)


def test_another_tenants_job_does_not_exist(bench):
    (job_id,) = bench.put(tenant_id=new_id())
    for call in (jobs.get_job, jobs.cancel_job, jobs.list_attempts, jobs.release_job):
        with pytest.raises(NotFound):
            call(bench.ctx, bench.caller, job_id)
    with pytest.raises(NotFound):
        jobs.wait_for_job(bench.ctx, bench.caller, job_id, 0)
    assert jobs.list_jobs(bench.ctx, bench.caller).data == []
    assert bench.row("queue", id=job_id).state == "queued"


def test_lists_go_both_ways_without_gaps(bench):
    ids = bench.put(7)[::-1]

    def shown(**more):
        page = jobs.list_jobs(bench.ctx, bench.caller, limit=3, **more)
        return [job.id for job in page.data], page.has_more

    assert shown() == (ids[:3], True)
    assert shown(after=ids[2]) == (ids[3:6], True)
    assert shown(after=ids[5]) == (ids[6:], False)
    assert shown(before=ids[6]) == (ids[3:6], True)
    assert shown(before=ids[3]) == (ids[:3], False)
    assert shown(before=ids[1]) == (ids[:1], False)


def test_lists_by_state_and_model(bench):
    bench.put(2, model="other")
    preparing = bench.put(kind="prepare")
    done, failed, running, queued = bench.put(4)
    lease = bench.open()
    claims = bench.claim(lease, 3)
    work.complete_group(bench.ctx, lease, [bench.outcome(claims[0])], [bench.ending(claims[1])])

    def shown(**more):
        return [job.id for job in jobs.list_jobs(bench.ctx, bench.caller, **more).data]

    assert shown(state=JobState.SUCCEEDED) == [done]
    assert shown(state=JobState.FAILED) == [failed]
    assert shown(state=JobState.RUNNING) == [running]
    assert shown(state=JobState.QUEUED, model="reader") == [queued]
    assert shown(state=JobState.PREPARING) == preparing
    assert shown(state=JobState.CANCELLED) == []
    assert len(shown(model="other")) == 2
    assert len(shown()) == 7


def test_cancelling_again_answers_the_same(bench):
    waiting, held = bench.put(2)
    lease = bench.open()
    bench.run("UPDATE queue SET available_at = now() + interval '1 hour' WHERE id = :id", id=waiting)
    bench.claim(lease)
    for job_id, tries in ((waiting, 0), (held, 1)):
        job = jobs.cancel_job(bench.ctx, bench.caller, job_id)
        assert (job.state, job.error, job.attempts) == (JobState.CANCELLED, None, tries)
        assert jobs.cancel_job(bench.ctx, bench.caller, job_id) == job
        (event,) = bench.rows("events", subject_id=job_id)
        assert (event.event, str(bench.caller.key_id) in event.actor) == ("cancelled", True)
    assert bench.attempts(waiting) == []
    assert bench.attempts(held) == [(1, "cancelled")]
    assert bench.count("cancelled") == 2


def test_what_has_ended_cannot_be_cancelled(bench):
    (job_id,) = bench.put()
    lease = bench.open()
    bench.complete(lease, bench.claim(lease))
    with pytest.raises(Conflict) as refused:
        jobs.cancel_job(bench.ctx, bench.caller, job_id)
    assert refused.value.code == "job_not_cancellable"
    assert bench.job(job_id).state is JobState.SUCCEEDED


def test_waiting_ends_with_the_job(bench):
    (job_id,) = bench.put()
    lease = bench.open()
    claims = bench.claim(lease)
    timer = threading.Timer(0.3, lambda: bench.complete(lease, claims))
    timer.start()
    began = time.monotonic()
    assert jobs.wait_for_job(bench.ctx, bench.caller, job_id, 20).state is JobState.SUCCEEDED
    assert time.monotonic() - began < 15
    timer.join()


def test_waiting_ends_with_its_time(bench):
    (job_id,) = bench.put()
    assert jobs.wait_for_job(bench.ctx, bench.caller, job_id, 0).state is JobState.QUEUED
    assert jobs.wait_for_job(bench.ctx, bench.caller, job_id, 0.05).state is JobState.QUEUED
    capped = replace(bench.ctx, settings=bench.ctx.settings.model_copy(update={"max_wait_s": 0.05}))
    assert jobs.wait_for_job(capped, bench.caller, job_id, 3600).state is JobState.QUEUED
