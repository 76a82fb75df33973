"""Models over HTTP, as OpenAI lists them."""

from __future__ import annotations

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply, show_model
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import ModelPath
from batchinfer.api.schemas import ModelBody, ModelList
from batchinfer.api.state import current
from batchinfer.services import models

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


@routes.get("/models/<path:model>", operation_id="get_model", responses={200: ModelBody})
def get_model(path: ModelPath) -> Response:
    """One model; its name may hold slashes."""
    return reply(show_model(models.get_model(current().context, caller(), path.model)))
