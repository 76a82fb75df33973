"""Runs over HTTP: documents read once, from their source into their sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply, show_error
from batchinfer.api.idempotency import check_key
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import RunDocumentsQuery, RunPath, RunsQuery
from batchinfer.api.run_schemas import CREATE, REREAD, RunBody, RunDocumentBody, RunDocumentList, RunList, RunPreview
from batchinfer.api.state import current
from batchinfer.api.submission import read_json, read_optional_json
from batchinfer.domain.batch_items import parse_reread
from batchinfer.domain.fields import read_object, read_word
from batchinfer.domain.ids import BATCH, DOCUMENT, RUN, SCHEDULE, parse_id, show_id
from batchinfer.domain.runs import count_pages
from batchinfer.observe.clock import to_unix
from batchinfer.services import previewing, rereading, run_documents, runs

if TYPE_CHECKING:
    from batchinfer.domain.runs import Run
    from batchinfer.store.run_documents import RunDocument

routes = APIBlueprint(
    "runs",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "runs"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
_ONE = "/runs/<run_id>"


@routes.post(
    "/runs", operation_id="create_run", request_body=CREATE,
    responses={200: RunBody, **refusals(409, 413, 415, 422, 429)},
)  # fmt: skip
def create_run() -> Response:
    """Read documents once: list them, render them, ask the model about each page, and write what it says."""
    caller().require("submit")
    body, idempotency = read_json("/v1/runs")
    run, replayed = runs.declare_run(current().context, caller(), read_object(body, "body"), idempotency)
    return answer_made(show_run(run, whole=True), replayed=replayed)


@routes.post(
    "/runs/preview", operation_id="preview_run", request_body=CREATE,
    responses={200: RunPreview, **refusals(413, 415)},
)  # fmt: skip
def preview_run() -> Response:
    """What such a run would do, and make nothing."""
    caller().require("submit")
    body, _ = read_json("/v1/runs/preview")
    found = previewing.preview_run(current().context, caller(), read_object(body, "body"))
    return reply(RunPreview.model_validate(found))


@routes.get("/runs", operation_id="list_runs", responses={200: RunList})
def list_runs(query: RunsQuery) -> Response:
    """Runs, newest first."""
    page = runs.list_runs(
        current().context,
        caller(),
        schedule_id=read_cursor(SCHEDULE, query.schedule_id, "schedule_id"),
        after=read_cursor(RUN, query.after),
        limit=query.limit,
    )
    return reply(RunList(**show_page(page, show_run)))


@routes.get(_ONE, operation_id="get_run", responses={200: RunBody})
def get_run(path: RunPath) -> Response:
    """A run as it stands."""
    return reply(show_run(runs.get_run(current().context, caller(), parse_id(RUN, path.run_id)), whole=True))


@routes.post(f"{_ONE}/pause", operation_id="pause_run", responses={200: RunBody, **refusals(409)})
def pause_run(path: RunPath) -> Response:
    """Begin no more pages of a run; what runs ends as it would. Twice is as once."""
    return reply(show_run(runs.pause_run(current().context, caller(), parse_id(RUN, path.run_id)), whole=True))


@routes.post(f"{_ONE}/resume", operation_id="resume_run", responses={200: RunBody, **refusals(409)})
def resume_run(path: RunPath) -> Response:
    """Let a run go on that was paused, or that paused itself. Twice is as once."""
    return reply(show_run(runs.resume_run(current().context, caller(), parse_id(RUN, path.run_id)), whole=True))


@routes.post(f"{_ONE}/cancel", operation_id="cancel_run", responses={200: RunBody, **refusals(409)})
def cancel_run(path: RunPath) -> Response:
    """End what has not ended of a run; what it has read is kept. Twice is as once; 409 where it ended otherwise."""
    return reply(show_run(runs.cancel_run(current().context, caller(), parse_id(RUN, path.run_id)), whole=True))


@routes.post(
    f"{_ONE}/retry", operation_id="retry_run", request_body=REREAD,
    responses={200: RunBody, **refusals(409, 413, 415, 422, 429)},
)  # fmt: skip
def retry_run(path: RunPath) -> Response:
    """Read those documents of an ended run again that have pages without an answer, as a new run with its settings."""
    caller().require("submit")
    check_key()  # a key that is none is refused whatever the id is
    run_id = parse_id(RUN, path.run_id)
    body, idempotency = read_optional_json(f"/v1/runs/{run_id.hex}/retry")
    run, replayed = rereading.reread_run(current().context, caller(), run_id, parse_reread(body), idempotency)
    response = reply(show_run(run, whole=True))
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@routes.get(f"{_ONE}/documents", operation_id="list_run_documents", responses={200: RunDocumentList})
def list_run_documents(path: RunPath, query: RunDocumentsQuery) -> Response:
    """The documents of a run in the order in which they were listed. Their pages: GET /v1/jobs with `document`."""
    page = run_documents.list_run_documents(
        current().context,
        caller(),
        parse_id(RUN, path.run_id),
        stage=query.stage and read_word(query.stage, "stage", run_documents.STAGES),
        outcome=query.outcome and read_word(query.outcome, "outcome", run_documents.OUTCOMES),
        after=read_cursor(DOCUMENT, query.after),
        limit=query.limit,
    )
    return reply(RunDocumentList(**show_page(page, show_run_document)))


def answer_made(body: RunBody, *, replayed: bool) -> Response:
    """The answer to what made a run, or would have made it again."""
    response = reply(body)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def show_run(run: Run, *, whole: bool = False) -> RunBody:
    """A run as users see it; `whole` with its declaration, which may be long."""
    batch, counts = run.batch, run.counts
    spec = {name: value for name, value in run.spec.items() if name != "resolved"}
    return RunBody.model_validate(
        {
            "id": show_id(RUN, run.id),
            "name": run.name,
            "status": run.state,
            "model": spec.get("pipeline", {}).get("model"),
            "job_class": batch.job_class if batch else None,
            "schedule_id": show_id(SCHEDULE, run.schedule_id) if run.schedule_id else None,
            "schedule_version": run.schedule_version,
            **_show_times(run),
            "counts": {
                "documents": {
                    "listed": counts.documents, "skipped": counts.skipped, "closed": counts.closed,
                    "failed": counts.failed, "with_errors": counts.with_errors,
                },
                "pages": count_pages(run),
            },
            "bytes": {"listed": counts.listed_bytes, "pages": run.page_bytes},
            "shards": run.shards,
            "cause": run.cause,
            "recipe": run.recipe,
            "batch_id": show_id(BATCH, run.id) if batch else None,
            "files": run.files,
            "metadata": spec.get("metadata") or {},
            "spec": spec if whole else None,
            "resolved": run.spec.get("resolved") if whole else None,
        }
    )  # fmt: skip


def _show_times(run: Run) -> dict[str, int | None]:
    batch = run.batch
    times: dict[str, Any] = {
        name: getattr(run, name) for name in ("instant", "due_at", "created_at", "listed_at", "finished_at")
    }
    times |= {"started_at": run.begun_at, "expires_at": batch.expires_at if batch else None}
    times["paused_at"] = batch.times.get("paused_at") if batch else None
    return {name: to_unix(moment) for name, moment in times.items()}


def show_run_document(document: RunDocument) -> RunDocumentBody:
    """A document of a run as users see it."""
    return RunDocumentBody.model_validate(
        {
            "id": show_id(DOCUMENT, document.id),
            "number": document.number,
            "uri": document.uri,
            "filename": document.filename,
            "media_type": document.media_type or None,
            "bytes": document.size_bytes,
            "stage": document.stage,
            "outcome": document.outcome,
            "same_as": show_id(DOCUMENT, document.same_as) if document.same_as else None,
            "pages": document.pages,
            "page_counts": {
                "total": document.jobs, "ended": document.jobs_ended, "failed": document.jobs_failed,
                "fallback": document.pages_fallback, "blank": document.pages_blank,
            },
            "error": show_error(document.error),
            "closed_at": to_unix(document.closed_at),
        }
    )  # fmt: skip
