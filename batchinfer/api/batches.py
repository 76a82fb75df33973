"""Batches over HTTP, as OpenAI's SDK asks for them."""

from __future__ import annotations

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.batch_schemas import CREATE, RECLASS, BatchBody, BatchList
from batchinfer.api.bodies import reply
from batchinfer.api.idempotency import read_idempotency
from batchinfer.api.lines import has_lines, hash_lines, read_options, read_pieces, refuse_options
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import BatchPath, LinesQuery, PageQuery
from batchinfer.api.state import current
from batchinfer.api.submission import read_json
from batchinfer.domain.batches import PRIORITIES, Batch, parse_batch, parse_bulk, parse_class
from batchinfer.domain.ids import BATCH, FILE, parse_id, show_id
from batchinfer.observe.clock import to_unix
from batchinfer.services import batch_controls, batches

routes = APIBlueprint(
    "batches",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "batches"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
_TIMES = (
    "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at",
)  # fmt: skip
_PRIORITIES = {job_class: name for name, job_class in PRIORITIES.items()}


@routes.post(
    "/batches",
    operation_id="create_batch",
    request_body=CREATE,
    responses={200: BatchBody, **refusals(409, 413, 415, 422, 429)},
)
def create_batch(query: LinesQuery) -> Response:
    """Make jobs of the lines of a file, or of the body. What is wrong with them is told by the batch, once it was read.

    As JSON the body names a file. As `application/x-ndjson` it is the lines, and what else JSON would hold stands in
    the query; it goes through the disk, never the memory, and a body that is cut off makes nothing.
    """
    if has_lines():
        caller().require("submit")
        read_idempotency("/v1/batches", b"")  # a key that is none is refused before the lines are read
        asked = parse_bulk(read_options(query))
        batch, replayed = batches.create_from_lines(current().context, caller(), asked, read_pieces(), hash_lines)
    else:
        refuse_options(query)
        body, idempotency = read_json("/v1/batches")
        batch, replayed = batches.create_batch(current().context, caller(), parse_batch(body), idempotency)
    response = reply(show_batch(batch))
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@routes.get("/batches", operation_id="list_batches", responses={200: BatchList})
def list_batches(query: PageQuery) -> Response:
    """Batches, newest first."""
    page = batches.list_batches(current().context, caller(), after=read_cursor(BATCH, query.after), limit=query.limit)
    return reply(BatchList(**show_page(page, show_batch)))


@routes.get("/batches/<batch_id>", operation_id="get_batch", responses={200: BatchBody})
def get_batch(path: BatchPath) -> Response:
    """A batch as it stands."""
    return reply(show_batch(batches.get_batch(current().context, caller(), parse_id(BATCH, path.batch_id))))


@routes.post("/batches/<batch_id>/cancel", operation_id="cancel_batch", responses={200: BatchBody})
def cancel_batch(path: BatchPath) -> Response:
    """End what has not ended of a batch; its files hold what has. Twice is as once; 400 where it ended otherwise."""
    return reply(show_batch(batches.cancel_batch(current().context, caller(), parse_id(BATCH, path.batch_id))))


@routes.post("/batches/<batch_id>/pause", operation_id="pause_batch", responses={200: BatchBody})
def pause_batch(path: BatchPath) -> Response:
    """Begin no more lines of a batch; what runs ends as it would, and its time passes. Twice is as once."""
    return reply(show_batch(batch_controls.pause_batch(current().context, caller(), parse_id(BATCH, path.batch_id))))


@routes.post("/batches/<batch_id>/resume", operation_id="resume_batch", responses={200: BatchBody})
def resume_batch(path: BatchPath) -> Response:
    """Let a paused batch go on. Twice is as once."""
    return reply(show_batch(batch_controls.resume_batch(current().context, caller(), parse_id(BATCH, path.batch_id))))


@routes.post(
    "/batches/<batch_id>/reclass", operation_id="reclass_batch", request_body=RECLASS,
    responses={200: BatchBody, **refusals(413, 415)},
)  # fmt: skip
def reclass_batch(path: BatchPath) -> Response:
    """Give the lines of a batch that have not ended another class."""
    caller().require("cancel")
    batch_id = parse_id(BATCH, path.batch_id)
    batches.get_own(current().context, caller(), batch_id)  # what is not there is that first, whatever the body says
    body, _ = read_json("/v1/batches/reclass")
    return reply(show_batch(batch_controls.reclass_batch(current().context, caller(), batch_id, parse_class(body))))


def show_batch(batch: Batch) -> BatchBody:
    """A batch as OpenAI shows it."""
    counts = batch.counts
    return BatchBody.model_validate(
        {
            "id": show_id(BATCH, batch.id),
            "endpoint": batch.endpoint,
            "model": batch.model,
            "errors": {"data": batch.errors} if batch.errors else None,
            "input_file_id": show_id(FILE, batch.input_file_id) if batch.input_file_id else None,
            "completion_window": batch.completion_window,
            "status": batch.status,
            "output_file_id": show_id(FILE, batch.output_file_id) if batch.output_file_id else None,
            "error_file_id": show_id(FILE, batch.error_file_id) if batch.error_file_id else None,
            "created_at": to_unix(batch.created_at),
            "expires_at": to_unix(batch.expires_at),
            **{name: to_unix(batch.times.get(name)) for name in _TIMES},
            "request_counts": {name: getattr(counts, name) for name in ("total", "completed", "failed")},
            "usage": batch.usage,
            "metadata": batch.metadata,
            "batchinfer": {
                "priority": _PRIORITIES[batch.job_class],
                "job_class": batch.job_class,
                "expired": counts.expired,
                "cancelled": counts.cancelled,
                "parent_id": show_id(BATCH, batch.parent_id) if batch.parent_id else None,
                "merged": batch.merged,
                "cache_hits": batch.cache_hits,
                "paused_at": to_unix(batch.times.get("paused_at")),
            },
        }
    )
