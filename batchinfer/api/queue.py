"""The queue over HTTP: what waits and is paused, pause, resume, change of class; and a tenant's limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.schemas import PauseBody, PauseList, QueueBody, QuotaBody, ReclassBody, WaitingBody
from batchinfer.api.state import current
from batchinfer.api.submission import read_body
from batchinfer.domain import controls
from batchinfer.domain.jobs import JobClass
from batchinfer.observe.clock import to_unix
from batchinfer.services import quotas, scheduling

if TYPE_CHECKING:
    from batchinfer.services.scheduling import ShownPause

routes = APIBlueprint(
    "queue",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "queue"}],
    abp_security=KEY,
    abp_responses=refusals(),
)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_NAME = _or_null({"type": "string", "maxLength": 256})
_CLASS: dict[str, Any] = {"type": "string", "enum": [str(job_class) for job_class in JobClass]}


def _body(properties: dict[str, Any], needed: list[str], example: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}
    content = {"schema": schema, "examples": {"one": {"value": example}}}
    return {"required": bool(needed), "content": {"application/json": content}}


_SCOPE = _body({"tenant": _NAME, "model": _NAME}, [], {"model": "docreader"})
_RECLASS = _body(
    {
        "tenant": _NAME,
        "model": _NAME,
        "class": _CLASS,
        "from_class": _or_null(_CLASS),
        "ids": _or_null({"type": "array", "items": {"type": "string"}, "maxItems": 10_000}),
    },
    ["class"],
    {"class": "batch", "from_class": "normal", "model": "docreader"},
)
_LIMITS = _body(
    {
        "tenant": _NAME,
        "max_jobs": _or_null({"type": "integer", "minimum": 0}),
        "weight": _or_null({"type": "integer", "minimum": 1, "maximum": 1000}),
    },
    [],
    {"max_jobs": 100_000, "weight": 2},
)


@routes.get("/queue", operation_id="get_queue", responses={200: QueueBody})
def get_queue() -> Response:
    """What waits and runs by kind, model and class, the pauses, and the limits with what is used of them."""
    ctx = current().context
    state = scheduling.read_queue(ctx, caller())
    return reply(
        QueueBody(
            waiting=[WaitingBody.model_validate(vars(row)) for row in state.waiting],
            pauses=_show_pauses(state.pauses),
            quota=_show_quota(quotas.read_quota(ctx, caller())),
        )
    )


@routes.post(
    "/queue/pause", operation_id="pause_queue", request_body=_SCOPE, responses={200: PauseList, **refusals(413)}
)
def pause_queue() -> Response:
    """Begin nothing more of a tenant, a model, both or all; what runs ends as it would. Twice is as once."""
    scope = controls.parse_scope(read_body())
    left = scheduling.pause(current().context, caller(), tenant=scope.tenant, model=scope.model)
    return reply(PauseList(data=_show_pauses(left)))


@routes.post(
    "/queue/resume", operation_id="resume_queue", request_body=_SCOPE, responses={200: PauseList, **refusals(413)}
)
def resume_queue() -> Response:
    """End the pause of exactly this tenant, model, both or all; other pauses stay."""
    scope = controls.parse_scope(read_body())
    left = scheduling.resume(current().context, caller(), tenant=scope.tenant, model=scope.model)
    return reply(PauseList(data=_show_pauses(left)))


@routes.post(
    "/queue/reclass", operation_id="reclass_jobs", request_body=_RECLASS, responses={200: ReclassBody, **refusals(413)}
)
def reclass_jobs() -> Response:
    """Give jobs that have not ended another class."""
    asked = controls.parse_reclass(read_body())
    changed = scheduling.reclass(
        current().context,
        caller(),
        asked.job_class,
        tenant=asked.scope.tenant,
        model=asked.scope.model,
        from_class=asked.from_class,
        ids=asked.ids,
    )
    return reply(ReclassBody(changed=changed))


@routes.post(
    "/queue/limits", operation_id="set_limits", request_body=_LIMITS, responses={200: QuotaBody, **refusals(413)}
)
def set_limits() -> Response:
    """Give a tenant limits of its own. Only the operator's keys may."""
    asked = controls.parse_limits(read_body())
    quota = quotas.set_quota(current().context, caller(), asked.tenant, max_jobs=asked.max_jobs, weight=asked.weight)
    return reply(_show_quota(quota))


def _show_pauses(pauses: list[ShownPause]) -> list[PauseBody]:
    return [PauseBody.model_validate({**vars(pause), "created_at": to_unix(pause.created_at)}) for pause in pauses]


def _show_quota(quota: quotas.Quota) -> QuotaBody:
    return QuotaBody.model_validate(vars(quota))
