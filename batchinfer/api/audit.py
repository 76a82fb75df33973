"""The audit log over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply
from batchinfer.api.key_schemas import ActBody, AuditList
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY as SECURITY
from batchinfer.api.openapi import refusals
from batchinfer.api.queries import AuditQuery
from batchinfer.api.state import current
from batchinfer.domain.ids import ACT, KEY, show_id
from batchinfer.services import audit
from batchinfer.store.audit import Wanted

if TYPE_CHECKING:
    from batchinfer.store.audit import StoredAct

routes = APIBlueprint(
    "audit",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "audit"}],
    abp_security=SECURITY,
    abp_responses=refusals(),
)


@routes.get("/audit", operation_id="list_audit", responses={200: AuditList})
def list_audit(query: AuditQuery) -> Response:
    """What administrators did to your tenant, for the operator to every one; newest first."""
    after = read_cursor(ACT, query.after)
    page = audit.list_acts(current().context, caller(), Wanted(action=query.action), after=after, limit=query.limit)
    return reply(AuditList(**show_page(page, show_act)))


def show_act(stored: StoredAct) -> ActBody:
    """An act as administrators see it."""
    act = stored.act
    return ActBody(
        id=show_id(ACT, stored.id),
        action=act.action,
        subject=act.subject,
        tenant=stored.tenant,
        actor=act.actor,
        key_id=show_id(KEY, act.key_id) if act.key_id else None,
        data=act.data,
        created_at=int(stored.created_at.timestamp()),
    )
