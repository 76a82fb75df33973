"""A batch line by line: its items, the causes of their failures, its retry, and a dry run before it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.batch_item_schemas import (
    RETRY,
    BatchCause,
    BatchCauseList,
    BatchItem,
    BatchItemList,
    BatchValidation,
    EstimateBody,
)
from batchinfer.api.batch_schemas import CREATE, BatchBody, BatchFaults
from batchinfer.api.batches import show_batch
from batchinfer.api.bodies import reply
from batchinfer.api.idempotency import check_key
from batchinfer.api.lines import has_lines, open_lines, read_options, refuse_options
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.patience import find_presence, take_place
from batchinfer.api.queries import BatchPath, ItemsQuery, LinesQuery
from batchinfer.api.state import current
from batchinfer.api.submission import read_json, read_optional_json
from batchinfer.domain.batch_items import parse_retry, show_fault
from batchinfer.domain.batches import parse_batch, parse_bulk
from batchinfer.domain.ids import BATCH, BATCH_LINE, JOB, parse_id, show_id
from batchinfer.observe.clock import to_unix
from batchinfer.services import batch_items, estimating

if TYPE_CHECKING:
    from batchinfer.domain.batch_items import Cause, Item
    from batchinfer.services.estimating import Estimate

routes = APIBlueprint(
    "batch_items",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "batches"}],
    abp_security=KEY,
    abp_responses=refusals(),
)


@routes.get("/batches/<batch_id>/items", operation_id="list_batch_items", responses={200: BatchItemList})
def list_batch_items(path: BatchPath, query: ItemsQuery) -> Response:
    """The lines of a batch that are jobs, in the order of its file."""
    page = batch_items.list_items(
        current().context,
        caller(),
        parse_id(BATCH, path.batch_id),
        state=query.status,
        code=query.code,
        custom_id=query.custom_id,
        after=read_cursor(BATCH_LINE, query.after),
        limit=query.limit,
    )
    return reply(BatchItemList(**show_page(page, _show_item)))


@routes.get("/batches/<batch_id>/errors", operation_id="list_batch_errors", responses={200: BatchCauseList})
def list_batch_errors(path: BatchPath) -> Response:
    """Why lines of a batch have no answer: one entry a reason, with an example. Of a bad file, its faults."""
    causes = batch_items.list_causes(current().context, caller(), parse_id(BATCH, path.batch_id))
    return reply(BatchCauseList(data=[_show_cause(cause) for cause in causes]))


@routes.post(
    "/batches/<batch_id>/retry",
    operation_id="retry_batch",
    request_body=RETRY,
    responses={200: BatchBody, **refusals(409, 413, 415, 422, 429)},
)
def retry_batch(path: BatchPath) -> Response:
    """Make a new batch of those lines of an ended one that have no answer. Its files hold the lines of both, each as it
    ended last, unless `merge` is false."""
    caller().require("submit")
    check_key()  # a key that is none is refused whatever the id is
    batch_id = parse_id(BATCH, path.batch_id)
    body, idempotency = read_optional_json(f"/v1/batches/{batch_id.hex}/retry")
    batch, replayed = batch_items.retry_batch(current().context, caller(), batch_id, parse_retry(body), idempotency)
    response = reply(show_batch(batch))
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@routes.post(
    "/batches/validate",
    operation_id="validate_batch",
    request_body=CREATE,
    responses={200: BatchValidation, **refusals(413, 415)},
)
def validate_batch(query: LinesQuery) -> Response:
    """Look at every line as a batch of them would, and make nothing. Takes what `POST /v1/batches` takes."""
    caller().require("submit")
    ctx = current().context
    with take_place():
        if has_lines():
            asked = parse_bulk(read_options(query))
            found = estimating.validate_lines(ctx, caller(), asked, open_lines(), find_presence())
        else:
            refuse_options(query)
            asked = parse_batch(read_json("/v1/batches/validate")[0])
            found = estimating.validate_file(ctx, caller(), asked)
    findings = found.findings
    body = BatchValidation(
        valid=not findings.faults,
        endpoint=asked.endpoint,
        requests=findings.total,
        faults=findings.faults,
        errors=BatchFaults.model_validate({"data": findings.errors}) if findings.errors else None,
        estimates=[_show_estimate(estimate) for estimate in found.estimates],
    )
    return reply(body)


def _show_item(item: Item) -> BatchItem:
    return BatchItem.model_validate(
        {
            "id": show_id(BATCH_LINE, item.job_id),
            "line": item.line,
            "custom_id": item.custom_id,
            "status": item.state,
            "job_id": show_id(JOB, item.job_id),
            "attempts": item.attempts,
            "created_at": to_unix(item.created_at),
            "finished_at": to_unix(item.finished_at),
            "error": show_fault(item.state, item.error),
        }
    )


def _show_cause(cause: Cause) -> BatchCause:
    example = {"line": cause.line, "custom_id": cause.custom_id, "message": cause.message}
    return BatchCause.model_validate(
        {
            "code": cause.code, "kind": cause.kind, "count": cause.count, "retry_helps": cause.retry_helps,
            "example": example,
        }
    )  # fmt: skip


def _show_estimate(estimate: Estimate) -> EstimateBody:
    demand = estimate.demand
    return EstimateBody(
        model=demand.model,
        requests=demand.requests,
        files=demand.files,
        max_output_tokens=demand.max_output_tokens,
        basis="unknown" if estimate.seconds is None else "measured",
        basis_jobs=estimate.basis_jobs,
        basis_minutes=estimate.basis_minutes,
        input_tokens=estimate.input_tokens,
        output_tokens=estimate.output_tokens,
        seconds=estimate.seconds,
    )
