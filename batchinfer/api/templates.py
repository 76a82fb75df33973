"""Prompt templates over HTTP: texts in versions, tried on some pages before a night is spent on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api import template_schemas as schemas
from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply
from batchinfer.api.idempotency import check_key
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import PageQuery, TemplatePath
from batchinfer.api.run_schemas import RunBody
from batchinfer.api.runs import answer_made, show_run
from batchinfer.api.state import current
from batchinfer.api.submission import read_json
from batchinfer.domain.ids import TEMPLATE, parse_id, show_id
from batchinfer.observe.clock import to_unix
from batchinfer.services import templates

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.templates import Told
    from batchinfer.store.templates import Template

routes = APIBlueprint(
    "templates",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "templates"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
_ONE = "/templates/<template_id>"
_VERSION = ("version", "prompt", "system", "response_format", "note")


@routes.post(
    "/templates", operation_id="create_template", request_body=schemas.CREATE,
    responses={200: schemas.TemplateBody, **refusals(409, 413, 415, 422)},
)  # fmt: skip
def create_template() -> Response:
    """Keep a prompt with variables of file and page, as version 1."""
    caller().require("submit")
    body, idempotency = read_json("/v1/templates")
    told, replayed = templates.create_template(current().context, caller(), body, idempotency)
    response = reply(schemas.TemplateBody.model_validate(_show(told)))
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@routes.post(
    "/templates/apply", operation_id="apply_template", request_body=schemas.CREATE,
    responses={200: schemas.AppliedTemplate, **refusals(409, 413, 415)},
)  # fmt: skip
def apply_template() -> Response:
    """Create the template of this name, or add a version where its newest says something else. Twice is as once."""
    caller().require("submit")
    body, _ = read_json("/v1/templates/apply")
    told, done = templates.apply_template(current().context, caller(), body)
    return reply(schemas.AppliedTemplate.model_validate({**_show(told), "applied": done}))


@routes.get("/templates", operation_id="list_templates", responses={200: schemas.TemplateList})
def list_templates(query: PageQuery) -> Response:
    """Templates, newest first, without their texts."""
    after = read_cursor(TEMPLATE, query.after)
    page = templates.list_templates(current().context, caller(), after=after, limit=query.limit)
    return reply(schemas.TemplateList(**show_page(page, _show_head)))


@routes.get(_ONE, operation_id="get_template", responses={200: schemas.TemplateBody})
def get_template(path: TemplatePath) -> Response:
    """A template with its versions."""
    told = templates.get_template(current().context, caller(), _read_id(path))
    return reply(schemas.TemplateBody.model_validate(_show(told)))


@routes.post(
    f"{_ONE}/versions", operation_id="create_template_version", request_body=schemas.VERSION,
    responses={200: schemas.TemplateBody, **refusals(413, 415)},
)  # fmt: skip
def create_template_version(path: TemplatePath) -> Response:
    """Another text, the newest from now on. The same text as the newest makes no version."""
    caller().require("submit")
    template_id = _read_own(path)
    body, _ = read_json("/v1/templates/versions")
    told = templates.add_version(current().context, caller(), template_id, body)
    return reply(schemas.TemplateBody.model_validate(_show(told)))


@routes.delete(_ONE, operation_id="delete_template", responses={200: schemas.TemplateDeleted})
def delete_template(path: TemplatePath) -> Response:
    """Let no run begin with it any more; those that have begun keep its text."""
    templates.delete_template(current().context, caller(), _read_id(path))
    return reply(schemas.TemplateDeleted(id=path.template_id))


@routes.post(
    f"{_ONE}/try", operation_id="try_template", request_body=schemas.TRY,
    responses={200: RunBody, **refusals(409, 413, 415, 422, 429)},
)  # fmt: skip
def try_template(path: TemplatePath) -> Response:
    """Try it on up to three pages of uploaded files: a run of the class interactive, whose documents have the jobs."""
    caller().require("submit")
    check_key()  # a key that is none is refused whatever the id is
    template_id = _read_own(path)
    body, idempotency = read_json(f"/v1/templates/{template_id.hex}/try")
    run, replayed = templates.try_template(current().context, caller(), template_id, body, idempotency)
    return answer_made(show_run(run, whole=True), replayed=replayed)


def _read_id(path: TemplatePath) -> UUID:
    return parse_id(TEMPLATE, path.template_id)


def _read_own(path: TemplatePath) -> UUID:
    """The id of a template that is there: what is not is that first, whatever the body says."""
    template_id = _read_id(path)
    templates.get_own(current().context, caller(), template_id)
    return template_id


def _show_head(template: Template) -> schemas.TemplateHead:
    return schemas.TemplateHead.model_validate(_show_plain(template))


def _show_plain(template: Template) -> dict[str, Any]:
    return {
        "id": show_id(TEMPLATE, template.id),
        "name": template.name,
        "version": template.version,
        "created_at": to_unix(template.created_at),
        "updated_at": to_unix(template.updated_at),
    }


def _show(told: Told) -> dict[str, Any]:
    template, versions = told
    shown = [
        {**{name: getattr(one, name) for name in _VERSION}, "created_at": to_unix(one.created_at)} for one in versions
    ]
    return {**_show_plain(template), "versions": shown}
