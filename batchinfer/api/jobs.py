"""Jobs over HTTP: submit, read (and wait), list, cancel, release, and the tries of one."""

from __future__ import annotations

from flask import Response, url_for
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply, show_attempt, show_document, show_job
from batchinfer.api.conditional import reply_tagged
from batchinfer.api.idempotency import check_key, hash_body, read_idempotency
from batchinfer.api.lists import read_cursor, read_pairs, read_time, show_page
from batchinfer.api.openapi import KEY, SUBMISSION, SUBMITTED, UNCHANGED, refusals
from batchinfer.api.queries import JobPath, JobsQuery, WaitQuery
from batchinfer.api.requests import mention_job
from batchinfer.api.schemas import AttemptList, DeletedJob, DocumentBody, JobBody, JobList
from batchinfer.api.state import current
from batchinfer.api.submission import read_submission
from batchinfer.domain.documents import Document
from batchinfer.domain.ids import BATCH, DOCUMENT, JOB, parse_id
from batchinfer.services import jobs, repeats

routes = APIBlueprint(
    "jobs",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "jobs"}],
    abp_security=KEY,
    abp_responses=refusals(),
)


@routes.post(
    "/jobs",
    operation_id="submit_job",
    request_body=SUBMISSION,
    responses={202: SUBMITTED, **refusals(409, 413, 415, 422, 429)},
)
def submit_job() -> Response:
    """Submit a job; a PDF or TIFF becomes a document, whose pages are jobs.

    The answer comes before the work: poll `GET /v1/jobs/{id}`, or the path in the header `Location`. With an
    `Idempotency-Key` the same request answers with what the first one made, and `Idempotency-Replayed: true`.
    """
    request, idempotency = read_submission("/v1/jobs")
    made, replayed = jobs.submit(current().context, caller(), request, idempotency)
    body: JobBody | DocumentBody
    if isinstance(made, Document):
        body, where = show_document(made), "documents.get_document"
        location = url_for(where, document_id=body.id)
    else:
        mention_job(made.id)
        body, where = show_job(made), "jobs.get_job"
        location = url_for(where, job_id=body.id)
    response = reply(body, 202)
    response.headers["Location"] = location
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@routes.get("/jobs/<job_id>", operation_id="get_job", responses={200: JobBody, 304: UNCHANGED})
def get_job(path: JobPath, query: WaitQuery) -> Response:
    """A job as it stands; with `?wait=` seconds, as soon as it has ended or the time is over.

    Where too many already wait, the answer comes at once: look at `status` and ask again. With `If-None-Match` and the
    `ETag` of an earlier answer it is 304 where nothing has changed.
    """
    state, job_id = current(), parse_id(JOB, path.job_id)
    wait_s = min(query.wait, state.context.settings.max_wait_s)
    if wait_s <= 0:
        return reply_tagged(show_job(jobs.get_job(state.context, caller(), job_id)))
    with state.waiters.try_enter() as entered:
        if entered:
            return reply_tagged(show_job(jobs.wait_for_job(state.context, caller(), job_id, wait_s)))
    return reply_tagged(show_job(jobs.get_job(state.context, caller(), job_id)))


@routes.get("/jobs", operation_id="list_jobs", responses={200: JobList})
def list_jobs(query: JobsQuery) -> Response:
    """Jobs, newest first."""
    page = jobs.list_jobs(
        current().context,
        caller(),
        state=query.status,
        model=query.model,
        job_class=query.job_class,
        document_id=read_cursor(DOCUMENT, query.document, "document"),
        batch_id=read_cursor(BATCH, query.batch, "batch"),
        created_from=read_time(query.created_from),
        created_before=read_time(query.created_before),
        metadata=read_pairs(query.metadata),
        after=read_cursor(JOB, query.after),
        limit=query.limit,
    )
    return reply(JobList(**show_page(page, show_job)))


@routes.post("/jobs/<job_id>/cancel", operation_id="cancel_job", responses={200: JobBody, **refusals(409)})
def cancel_job(path: JobPath) -> Response:
    """End a job that has not ended. Cancelling twice is harmless; a job that ended otherwise answers 409."""
    return reply(show_job(jobs.cancel_job(current().context, caller(), parse_id(JOB, path.job_id))))


@routes.post("/jobs/<job_id>/release", operation_id="release_job", responses={200: JobBody, **refusals(409)})
def release_job(path: JobPath) -> Response:
    """Let a quarantined job run once more, alone, without the deadline that it had. Any other job answers 409."""
    return reply(show_job(jobs.release_job(current().context, caller(), parse_id(JOB, path.job_id))))


@routes.post(
    "/jobs/<job_id>/retry",
    operation_id="retry_job",
    responses={202: JobBody, **refusals(409, 422, 429)},
)
def retry_job(path: JobPath) -> Response:
    """Do a job that ended without a result again, as a new job. Once: after that it is the new one's turn."""
    caller().require("submit")
    check_key()  # a key that is none is refused whatever the id is
    job_id = parse_id(JOB, path.job_id)
    idempotency = read_idempotency("/v1/jobs/{id}/retry", hash_body(job_id.bytes))
    job, replayed = repeats.retry_job(current().context, caller(), job_id, idempotency)
    mention_job(job.id)
    body = show_job(job)
    response = reply(body, 202)
    response.headers["Location"] = url_for("jobs.get_job", job_id=body.id)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@routes.delete("/jobs/<job_id>", operation_id="delete_job", responses={200: DeletedJob, **refusals(409)})
def delete_job(path: JobPath) -> Response:
    """Delete an ended job with its prompt and result; its files go within minutes, where nothing else needs them."""
    repeats.delete_job(current().context, caller(), parse_id(JOB, path.job_id))
    return reply(DeletedJob(id=path.job_id))


@routes.get("/jobs/<job_id>/attempts", operation_id="list_attempts", responses={200: AttemptList})
def list_attempts(path: JobPath) -> Response:
    """The ended tries of a job, oldest first: which worker, how long, and why it ended."""
    attempts = jobs.list_attempts(current().context, caller(), parse_id(JOB, path.job_id))
    return reply(AttemptList(data=[show_attempt(attempt) for attempt in attempts]))
