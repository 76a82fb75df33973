"""Acts on many jobs over HTTP: counted, asked for, followed, stopped half way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.act_schemas import ACT, BulkActBody, BulkActList, ReachBody
from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply, show_error
from batchinfer.api.idempotency import check_key
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import ActPath, PageQuery
from batchinfer.api.schemas import ErrorDetail
from batchinfer.api.state import current
from batchinfer.api.submission import read_json
from batchinfer.domain.act_requests import parse_act
from batchinfer.domain.ids import BATCH, BULK, DOCUMENT, JOB, parse_id, show_id
from batchinfer.domain.job_search import JobSearch
from batchinfer.observe.clock import to_unix
from batchinfer.services import bulk_acts

if TYPE_CHECKING:
    from batchinfer.domain.bulk_acts import BulkAct

routes = APIBlueprint(
    "acts",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "jobs"}],
    abp_security=KEY,
    abp_responses=refusals(),
)


@routes.post(
    "/acts/count", operation_id="count_act", request_body=ACT, responses={200: ReachBody, **refusals(413, 415)}
)
def count_act() -> Response:
    """How many jobs an act would touch: exactly, now. Nothing is done."""
    body, _idempotency = read_json("/v1/acts/count")
    asked = parse_act(body)
    reach = bulk_acts.count_reach(current().context, caller(), asked.verb, search=asked.search, ids=asked.ids)
    up_to = show_id(JOB, reach.up_to) if reach.number or reach.others else None
    return reply(ReachBody(number=reach.number, others=reach.others, up_to=up_to))


@routes.post(
    "/acts", operation_id="create_act", request_body=ACT, responses={202: BulkActBody, **refusals(409, 413, 415, 422)}
)
def create_act() -> Response:
    """Try jobs again, cancel or delete them, some at a time, with its progress. Jobs that come later are left alone."""
    check_key()
    body, idempotency = read_json("/v1/acts")
    asked = parse_act(body)
    act, replayed = bulk_acts.ask_for(
        current().context, caller(), asked.verb, search=asked.search, ids=asked.ids, up_to=asked.up_to,
        idempotency=idempotency,
    )  # fmt: skip
    response = reply(show_act(act), 202)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@routes.get("/acts", operation_id="list_acts", responses={200: BulkActList})
def list_acts(query: PageQuery) -> Response:
    """Acts of late, newest first."""
    page = bulk_acts.list_acts(current().context, caller(), after=read_cursor(BULK, query.after), limit=query.limit)
    return reply(BulkActList(**show_page(page, show_act)))


@routes.get("/acts/<act_id>", operation_id="get_act", responses={200: BulkActBody})
def get_act(path: ActPath) -> Response:
    """How far an act is."""
    return reply(show_act(bulk_acts.get_act(current().context, caller(), parse_id(BULK, path.act_id))))


@routes.post("/acts/<act_id>/cancel", operation_id="cancel_act", responses={200: BulkActBody, **refusals(409)})
def cancel_act(path: ActPath) -> Response:
    """Stop an act half way; what it did stays done. One that has ended answers 409."""
    return reply(show_act(bulk_acts.cancel_act(current().context, caller(), parse_id(BULK, path.act_id))))


def show_act(act: BulkAct) -> BulkActBody:
    """An act as people see it."""
    return BulkActBody(
        id=show_id(BULK, act.id),
        verb=act.verb,
        status=act.state,
        actor=act.actor,
        search=None if act.ids else _show_search(JobSearch.of(act.search)),
        named=len(act.ids),
        total=act.total,
        done=act.done,
        skipped=act.skipped,
        failed=act.failed,
        reasons=act.reasons,
        error=ErrorDetail(**told) if (told := show_error(act.error)) else None,
        created_at=int(act.created_at.timestamp()),
        started_at=to_unix(act.started_at),
        finished_at=to_unix(act.finished_at),
    )


def _show_search(search: JobSearch) -> dict[str, Any]:
    """As a request has it: the conditions that there are."""
    values = {
        "status": search.state, "model": search.model, "class": search.job_class,
        "document": show_id(DOCUMENT, search.document_id) if search.document_id else None,
        "batch": show_id(BATCH, search.batch_id) if search.batch_id else None,
        "created_from": to_unix(search.created_from), "created_before": to_unix(search.created_before),
        "metadata": search.metadata, "custom_id": search.custom_id, "text": search.words,
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}
