"""Models over HTTP, as OpenAI lists them; and made known."""

from __future__ import annotations

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api import revision_schemas
from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply, show_model
from batchinfer.api.launch_schemas import PLAN_MODEL, LaunchPlanBody, show_plan
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import ModelPath
from batchinfer.api.revisions import show_to_caller
from batchinfer.api.schemas import ModelBody, ModelList
from batchinfer.api.state import current
from batchinfer.api.submission import read_body
from batchinfer.domain.launches import parse_launch
from batchinfer.domain.registry import parse_register
from batchinfer.services import memory, models, registry

routes = APIBlueprint(
    "models",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "models"}],
    abp_security=KEY,
    abp_responses=refusals(),
)


@routes.get("/models", operation_id="list_models", responses={200: ModelList})
def list_models() -> Response:
    """Every model; `status` is ready, loading, failed or stopped."""
    return reply(ModelList(data=[show_model(model) for model in models.list_models(current().context, caller())]))


@routes.post(
    "/models", operation_id="register_model", request_body=revision_schemas.REGISTER,
    responses={200: revision_schemas.RevisionBody, **refusals(413)},
)  # fmt: skip
def register_model() -> Response:
    """Make a revision of a model known: its files are listed, nothing of its weights is read. Twice is as once."""
    caller().require("fetch")
    made = registry.register(current().context, caller(), parse_register(read_body()))
    return reply(show_to_caller(made))


@routes.get("/models/<path:model>", operation_id="get_model", responses={200: ModelBody})
def get_model(path: ModelPath) -> Response:
    """One model; its name may hold slashes."""
    return reply(show_model(models.get_model(current().context, caller(), path.model)))


@routes.post(
    "/models/<path:model>/plan",
    operation_id="plan_model",
    request_body=PLAN_MODEL,
    responses={200: LaunchPlanBody, **refusals(409, 413)},
)
def plan_model(path: ModelPath) -> Response:
    """What a launch of the model would take, beside what each device has; nothing is launched."""
    spec = parse_launch(read_body())
    return reply(show_plan(memory.plan_launch(current().context, caller(), path.model, spec)))
