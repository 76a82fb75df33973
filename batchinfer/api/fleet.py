"""The fleet over HTTP: the workers, and the numbers of the overview."""

from __future__ import annotations

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply, show_overview, show_worker
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.schemas import OverviewBody, WorkerList
from batchinfer.api.state import current
from batchinfer.services import fleet

routes = APIBlueprint(
    "fleet",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "fleet"}],
    abp_security=KEY,
    abp_responses=refusals(),
)


@routes.get("/workers", operation_id="list_workers", responses={200: WorkerList})
def list_workers() -> Response:
    """Worker processes alive, and those that ended in the last hour."""
    return reply(WorkerList(data=[show_worker(worker) for worker in fleet.list_workers(current().context, caller())]))


@routes.get("/overview", operation_id="get_overview", responses={200: OverviewBody})
def get_overview() -> Response:
    """What waits and runs, what the last hour brought, and the workers with what they report."""
    return reply(show_overview(fleet.overview(current().context, caller())))
