"""A user's verbs for jobs: submit, get, wait, list, cancel, release."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import JOB, new_id, show_id
from batchinfer.domain.jobs import TERMINAL, JobFilter, JobState
from batchinfer.domain.retries import ALONE_FROM
from batchinfer.domain.timelines import Timeline, build_timeline
from batchinfer.errors import Conflict, NotFound
from batchinfer.services import documents, models
from batchinfer.services.audit import note
from batchinfer.services.context import Page
from batchinfer.services.files import (
    find_document_type,
    find_office_type,
    find_type,
    list_there,
    pin_files,
    store_uploads,
)
from batchinfer.services.quotas import admit
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.services.requests import build_prompt, find_expiry
from batchinfer.services.reusing import store_jobs
from batchinfer.store import backlog, endings, files, queue
from batchinfer.store import jobs as store
from batchinfer.store.claims import INFER, PREPARE
from batchinfer.store.events import Event, record
from batchinfer.store.minutes import Tally
from batchinfer.store.session import read_now

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.documents import Document
    from batchinfer.domain.jobs import Attempt, Job
    from batchinfer.domain.prompts import JobRequest
    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.files import Blob
    from batchinfer.store.session import Transaction

#: Who waits looks this often by himself, should the bell be lost.
_LOOK_S = 1.0


def submit(
    ctx: Context, caller: Caller, request: JobRequest, idempotency: Idempotency | None = None
) -> tuple[Job | Document, bool]:
    """Store a request and announce it. Answers the job (or, for one PDF or TIFF, the document) and whether it is a
    replay of an earlier request with the same key.

    Raises NotFound (codes model_not_found, file_not_found), Unsupported (415), BadRequest (a document beside other
    files, a file for something else), BadImage (an empty file), KeyReused, Busy (a quota), Forbidden, Unavailable.
    """
    caller.require("submit")
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
        if found is None:
            models.require_model(tx, request.model)
    if found is not None:
        return _replay(ctx, caller, found.resource, found.resource_id), True
    request = replace(request, uploads=pin_files(ctx, caller.tenant_id, request.uploads))
    media_type = _find_document(ctx, caller, request)
    try:
        if media_type is not None:
            return documents.submit_document(ctx, caller, request, media_type, idempotency), False
        return _submit_job(ctx, caller, request, idempotency), False
    except Replayed as replay:
        return _replay(ctx, caller, replay.found.resource, replay.found.resource_id), True


def _find_document(ctx: Context, caller: Caller, request: JobRequest) -> str | None:
    """The media type of the file that becomes a document; None where all files are part of one prompt."""
    if not request.pages_inline:
        office = find_office_type(ctx, caller.tenant_id, request.uploads)
        return office or find_document_type(request.uploads)
    for upload in request.uploads:
        find_type(upload)  # refuses what is neither a picture nor a document
    return None


def _submit_job(ctx: Context, caller: Caller, request: JobRequest, idempotency: Idempotency | None) -> Job:
    blobs = store_uploads(ctx, caller.tenant_id, request.uploads)
    job_id = new_id()
    with ctx.db.transaction() as tx:
        take_key(ctx, tx, caller, idempotency, "job", job_id)
        admit(ctx, tx, caller.tenant_id, 1)
        ended = _insert(tx, caller, request, job_id, blobs)
        job = store.find_job(tx, caller.tenant_id, job_id)
    if ended:
        ctx.bell.ring([job_id])
    elif blobs:
        ctx.announcer.announce_cpu([job_id])
    else:
        ctx.announcer.announce(request.model, request.job_class, [job_id])
    return require_job(job)


def _insert(tx: Transaction, caller: Caller, request: JobRequest, job_id: UUID, blobs: list[Blob | None]) -> bool:
    """Store the job, and its queue row unless it ended at once: its answer was there. Answers whether it did."""
    expires_at = find_expiry(tx, request)
    job = store.NewJob(
        id=job_id,
        tenant_id=caller.tenant_id,
        model=request.model,
        job_class=request.job_class,
        prompt=build_prompt(request, blobs),
        metadata=request.metadata,
        expires_at=expires_at,
        key_id=caller.key_id,
    )
    files.record_blobs(tx, caller.tenant_id, list_there(blobs))
    tally = Tally()
    ended = bool(store_jobs(tx, [job], tally))
    kind = PREPARE if blobs else INFER
    entry = queue.Entry(job_id, kind, caller.tenant_id, request.model, request.job_class, expires_at)
    queue.enqueue(tx, [] if ended else [entry])
    tally.count(caller.tenant_id, request.model, submitted=1)
    tally.add(tx)
    return ended


def _replay(ctx: Context, caller: Caller, resource: str, resource_id: UUID) -> Job | Document:
    if resource == "document":
        return documents.find_own(ctx, caller, resource_id)
    return find_own(ctx, caller, resource_id)


def find_own(ctx: Context, caller: Caller, job_id: UUID) -> Job:
    """The caller's job, whatever its scopes. Raises NotFound."""
    with ctx.db.transaction() as tx:
        return require_job(store.find_job(tx, caller.tenant_id, job_id))


def require_job(job: Job | None) -> Job:
    """The job if there is one. Raises NotFound (code job_not_found)."""
    if job is None:
        raise make_missing()
    return job


def make_missing() -> NotFound:
    """The error for a job that is not there."""
    return NotFound("No job with this id. It may have been deleted, or its time is over.", code="job_not_found")


def get_job(ctx: Context, caller: Caller, job_id: UUID) -> Job:
    """The job. Raises NotFound."""
    caller.require("read")
    return find_own(ctx, caller, job_id)


def wait_for_job(ctx: Context, caller: Caller, job_id: UUID, wait_s: float) -> Job:
    """The job once it has ended, or as it stands after `wait_s` (capped by the setting max_wait_s). Raises NotFound."""
    deadline = time.monotonic() + min(wait_s, ctx.settings.max_wait_s)
    with ctx.bell.listening(job_id) as rung:
        while True:
            job = get_job(ctx, caller, job_id)
            left_s = deadline - time.monotonic()
            if job.state in TERMINAL or left_s <= 0:
                return job
            rung.wait(min(_LOOK_S, left_s))
            rung.clear()


def list_jobs(
    ctx: Context,
    caller: Caller,
    *,
    before: UUID | None = None,
    after: UUID | None = None,
    limit: int = 20,
    **conditions: Any,
) -> Page[Job]:
    """Jobs, newest first. `after` goes on below that id (older ones), `before` ends just above it (newer ones).

    `conditions` are the fields of JobFilter.
    """
    caller.require("read")
    wanted = JobFilter(**conditions)
    with ctx.db.transaction() as tx:
        found = store.list_jobs(tx, caller.tenant_id, wanted, before=before, after=after, limit=limit + 1)
    return Page.cut(found, limit, backwards=before is not None)


def cancel_job(ctx: Context, caller: Caller, job_id: UUID) -> Job:
    """End a job that has not ended; one that was cancelled before answers the same.

    Raises NotFound, Conflict (code job_not_cancellable) where it ended otherwise.
    """
    caller.require("cancel")
    with ctx.db.transaction() as tx:
        ended = endings.cancel(tx, caller.tenant_id, [job_id], actor=caller.actor)
        job = require_job(store.find_job(tx, caller.tenant_id, job_id))
    if ended:
        ctx.bell.ring([job_id])
        if ended[0].held:
            ctx.control.cancel_jobs([job_id])
    elif job.state is not JobState.CANCELLED:
        raise Conflict(
            f"Job {show_id(JOB, job_id)} has already ended as {job.state}. Only a job that has not ended can be "
            "cancelled.",
            code="job_not_cancellable",
        )
    return job


def release_job(ctx: Context, caller: Caller, job_id: UUID) -> Job:
    """Let a quarantined job run again. Raises NotFound, Conflict (code job_not_quarantined)."""
    caller.require("admin")
    with ctx.db.transaction() as tx:
        released = store.release_quarantined(tx, caller.tenant_id, job_id, suspected=suspect_again(ctx))
        job = require_job(store.find_job(tx, caller.tenant_id, job_id))
        if released:
            record(tx, [Event(caller.tenant_id, "job", job_id, "released", caller.actor)])
            note(tx, caller, "job.release", show_id(JOB, job_id))
            backlog.count_jobs(tx, {caller.tenant_id: 1})
    if not released:
        raise Conflict(
            f"Job {show_id(JOB, job_id)} is {job.state}. Only a quarantined job that is no line of a batch can be "
            "released.",
            code="job_not_quarantined",
        )
    if job.state is JobState.PREPARING:
        ctx.announcer.announce_cpu([job_id])
    else:
        ctx.announcer.announce(job.model, job.job_class, [job_id])
    return job


def suspect_again(ctx: Context) -> int:
    """So suspected that it runs alone, and that one more lost worker proves it again."""
    return max(ALONE_FROM, ctx.settings.max_crashes - 1)


def list_attempts(ctx: Context, caller: Caller, job_id: UUID) -> list[Attempt]:
    """The ended tries of a job, oldest first. Raises NotFound."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        require_job(store.find_job(tx, caller.tenant_id, job_id))
        return store.list_attempts(tx, job_id)


def read_timeline(ctx: Context, caller: Caller, job_id: UUID) -> Timeline:
    """Where the time of a job went, up to its end or to now. Raises NotFound."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        # The queue first: a try that ends in between is then among the ended ones, and the job has ended.
        held = store.find_held(tx, job_id)
        job = require_job(store.find_job(tx, caller.tenant_id, job_id))
        tries = store.list_attempts(tx, job_id)
        now = read_now(tx)
    return build_timeline(job.created_at, tries, ended_at=job.finished_at, now=now, held=held, trace_id=job.trace_id)


def read_result(ctx: Context, caller: Caller, job_id: UUID) -> Job:
    """A job that has a result. Raises NotFound, and Conflict (code no_result) for one that has none, or none yet."""
    job = get_job(ctx, caller, job_id)
    if job.result is None:
        later = "" if job.state in TERMINAL else " Wait for its end with `?wait=` on the job."
        raise Conflict(f"Job {show_id(JOB, job_id)} is {job.state} and has no result.{later}", code="no_result")
    return job
