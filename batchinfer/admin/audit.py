"""Audit: who did what to what, newest first; a list that the address alone decides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flask import make_response, render_template, request

from batchinfer.admin.session import get_caller, get_context
from batchinfer.admin.spans import make_address, read_after, read_span
from batchinfer.domain import ids
from batchinfer.services import audit
from batchinfer.store.audit import Wanted

if TYPE_CHECKING:
    from flask import Blueprint, Response

ROWS = 50


def register(blueprint: Blueprint) -> None:
    """Add the page."""
    blueprint.add_url_rule("/audit", view_func=show_audit)


def show_audit() -> Response:
    """The list. Raises Forbidden, BadRequest for a filter that cannot be."""
    span = read_span()
    said = {name: request.args.get(name, "").strip() for name in ("action", "actor", "key")}
    wanted = Wanted(said["action"] or None, read_after(ids.KEY, "key"), said["actor"] or None, span.since, span.until)
    page = audit.list_acts(get_context(), get_caller(), wanted, after=read_after(ids.ACT), limit=ROWS)
    given: dict[str, Any] = {**said, **span.said}
    older = ids.show_id(ids.ACT, page.data[-1].id) if page.has_more else None
    return make_response(
        render_template(
            "audit.html",
            acts=[(one, _show_data(one.act.data)) for one in page.data],
            show_key=lambda value: ids.show_id(ids.KEY, value),
            show_act=lambda value: ids.show_id(ids.ACT, value),
            given=given,
            address=lambda **changes: make_address("admin.show_audit", given, **changes),
            older=older and make_address("admin.show_audit", given, after=older),
            paged="after" in request.args,
        )
    )


def _show_data(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False) if data else ""
