"""Schedules over HTTP: runs over documents, a run for each instant of a cron line in a time zone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api import schedule_schemas as schemas
from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply, show_error
from batchinfer.api.idempotency import check_key, hash_body, read_idempotency
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import NextQuery, PageQuery, SchedulePath
from batchinfer.api.run_schemas import RunBody, RunList
from batchinfer.api.runs import answer_made, show_run
from batchinfer.api.state import current
from batchinfer.api.submission import read_json
from batchinfer.domain.ids import RUN, SCHEDULE, parse_id, show_id
from batchinfer.domain.timing import explain
from batchinfer.errors import BadRequest
from batchinfer.observe.clock import to_unix
from batchinfer.services import schedules

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.schedules import Schedule

routes = APIBlueprint(
    "schedules",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "schedules"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
_ONE = "/schedules/<schedule_id>"


@routes.post(
    "/schedules", operation_id="create_schedule", request_body=schemas.CREATE,
    responses={200: schemas.ScheduleBody, **refusals(409, 413, 415, 422)},
)  # fmt: skip
def create_schedule() -> Response:
    """Have documents read again and again: a run for each instant."""
    caller().require("submit")
    body, idempotency = read_json("/v1/schedules")
    schedule, replayed = schedules.create_schedule(current().context, caller(), body, idempotency)
    response = reply(show_schedule(schedule))
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@routes.post(
    "/schedules/apply", operation_id="apply_schedule", request_body=schemas.CREATE,
    responses={200: schemas.AppliedSchedule, **refusals(409, 413, 415)},
)  # fmt: skip
def apply_schedule() -> Response:
    """Create the schedule of this name, or make it what is declared. Twice is as once."""
    caller().require("submit")
    body, _ = read_json("/v1/schedules/apply")
    schedule, done = schedules.apply_schedule(current().context, caller(), body)
    return reply(schemas.AppliedSchedule.model_validate({**_show(schedule), "applied": done}))


@routes.get("/schedules", operation_id="list_schedules", responses={200: schemas.ScheduleList})
def list_schedules(query: PageQuery) -> Response:
    """Schedules, newest first."""
    after = read_cursor(SCHEDULE, query.after)
    page = schedules.list_schedules(current().context, caller(), after=after, limit=query.limit)
    return reply(schemas.ScheduleList(**show_page(page, show_schedule)))


@routes.get(_ONE, operation_id="get_schedule", responses={200: schemas.ScheduleBody})
def get_schedule(path: SchedulePath) -> Response:
    """A schedule as it stands."""
    return reply(show_schedule(schedules.get_schedule(current().context, caller(), _read_id(path))))


@routes.patch(
    _ONE, operation_id="change_schedule", request_body=schemas.CHANGE,
    responses={200: schemas.ScheduleBody, **refusals(409, 413, 415)},
)  # fmt: skip
def change_schedule(path: SchedulePath) -> Response:
    """Change what is given; null takes a field away. Runs that were made keep what they were made of."""
    caller().require("submit")
    schedule_id = _read_id(path)
    schedules.get_own(current().context, caller(), schedule_id)  # what is not there is that first, whatever it says
    body, _ = read_json("/v1/schedules/change")
    return reply(show_schedule(schedules.change_schedule(current().context, caller(), schedule_id, body)))


@routes.delete(_ONE, operation_id="delete_schedule", responses={200: schemas.ScheduleDeleted})
def delete_schedule(path: SchedulePath) -> Response:
    """Fire it no more. Its runs are kept, and those that have begun go on."""
    schedules.delete_schedule(current().context, caller(), _read_id(path))
    return reply(schemas.ScheduleDeleted(id=path.schedule_id))


@routes.post(f"{_ONE}/pause", operation_id="pause_schedule", responses={200: schemas.ScheduleBody})
def pause_schedule(path: SchedulePath) -> Response:
    """Let instants pass from now on; runs that have begun go on. Twice is as once."""
    return reply(show_schedule(schedules.pause_schedule(current().context, caller(), _read_id(path))))


@routes.post(f"{_ONE}/resume", operation_id="resume_schedule", responses={200: schemas.ScheduleBody})
def resume_schedule(path: SchedulePath) -> Response:
    """Fire again, from the next instant on. Twice is as once."""
    return reply(show_schedule(schedules.resume_schedule(current().context, caller(), _read_id(path))))


@routes.post(f"{_ONE}/run", operation_id="run_schedule", responses={200: RunBody, **refusals(409, 422, 429)})
def run_schedule(path: SchedulePath) -> Response:
    """Begin a run of it now, beside its instants."""
    caller().require("submit")
    check_key()  # a key that is none is refused whatever the id is
    schedule_id = _read_id(path)
    idempotency = read_idempotency(f"/v1/schedules/{schedule_id.hex}/run", hash_body(b""))
    run, replayed = schedules.run_now(current().context, caller(), schedule_id, idempotency)
    return answer_made(show_run(run, whole=True), replayed=replayed)


@routes.get(f"{_ONE}/next", operation_id="list_next_instants", responses={200: schemas.InstantList})
def list_next_instants(path: SchedulePath, query: NextQuery) -> Response:
    """When it fires next."""
    ctx, schedule_id = current().context, _read_id(path)
    zone = ZoneInfo(schedules.get_schedule(ctx, caller(), schedule_id).timing.timezone)
    found = schedules.list_instants(ctx, caller(), schedule_id, query.n)
    shown = [{"at": to_unix(instant), "local": instant.astimezone(zone).isoformat()} for instant in found]
    return reply(schemas.InstantList.model_validate({"data": shown}))


@routes.get(f"{_ONE}/runs", operation_id="list_schedule_runs", responses={200: RunList})
def list_schedule_runs(path: SchedulePath, query: PageQuery) -> Response:
    """Its runs, newest first: what was made of each instant, also where that is nothing."""
    after = read_cursor(RUN, query.after)
    page = schedules.list_runs(current().context, caller(), _read_id(path), after=after, limit=query.limit)
    return reply(RunList(**show_page(page, show_run)))


def _read_id(path: SchedulePath) -> UUID:
    return parse_id(SCHEDULE, path.schedule_id)


def show_schedule(schedule: Schedule) -> schemas.ScheduleBody:
    """A schedule as users see it."""
    return schemas.ScheduleBody.model_validate(_show(schedule))


def _show(schedule: Schedule) -> dict[str, Any]:
    return {
        "id": show_id(SCHEDULE, schedule.id),
        "name": schedule.name,
        "status": schedule.state,
        "version": schedule.version,
        "created_at": to_unix(schedule.created_at),
        "updated_at": to_unix(schedule.updated_at),
        "next_at": to_unix(schedule.next_at),
        "fires": _explain(schedule),
        "error": show_error(schedule.error),
        "declared": schedule.declared,
    }


def _explain(schedule: Schedule) -> str | None:
    try:
        return explain(schedule.timing)
    except BadRequest:
        return None
