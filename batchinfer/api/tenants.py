"""Tenants over HTTP, for the operator's keys alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply
from batchinfer.api.key_schemas import CREATE_TENANT, RETENTION, TenantBody, TenantList
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import PageQuery
from batchinfer.api.state import current
from batchinfer.api.submission import read_body, read_json
from batchinfer.domain.ids import TENANT, show_id
from batchinfer.domain.keys import parse_retention, parse_tenant
from batchinfer.services import tenants

if TYPE_CHECKING:
    from batchinfer.store.tenants import Tenant

routes = APIBlueprint(
    "tenants",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "tenants"}],
    abp_security=KEY,
    abp_responses=refusals(),
)


@routes.post(
    "/tenants",
    operation_id="create_tenant",
    request_body=CREATE_TENANT,
    responses={201: TenantBody, **refusals(409, 413, 415, 422)},
)
def create_tenant() -> Response:
    """Make a tenant; `POST /v1/keys` with its name makes its first key. Only the operator's keys may."""
    caller().require("admin")
    body, idempotency = read_json("/v1/tenants")
    tenant, replayed = tenants.create_tenant(current().context, caller(), parse_tenant(body), idempotency)
    response = reply(show_tenant(tenant), 201)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@routes.post(
    "/tenants/retention",
    operation_id="set_retention",
    request_body=RETENTION,
    responses={200: TenantBody, **refusals(404, 413, 415)},
)
def set_retention() -> Response:
    """Say how many days a tenant's jobs are kept. Only the operator's keys may."""
    caller().require("admin")
    name, days = parse_retention(read_body())
    return reply(show_tenant(tenants.set_retention(current().context, caller(), name, days)))


@routes.get("/tenants", operation_id="list_tenants", responses={200: TenantList})
def list_tenants(query: PageQuery) -> Response:
    """Tenants and their limits, newest first. Only the operator's keys may."""
    page = tenants.list_tenants(current().context, caller(), after=read_cursor(TENANT, query.after), limit=query.limit)
    return reply(TenantList(**show_page(page, show_tenant)))


def show_tenant(tenant: Tenant) -> TenantBody:
    """A tenant as an operator sees it."""
    return TenantBody(
        id=show_id(TENANT, tenant.id),
        name=tenant.name,
        max_jobs=tenant.max_jobs,
        weight=tenant.weight,
        keep_days=tenant.keep_days,
    )
