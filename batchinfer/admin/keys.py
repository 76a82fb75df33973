"""Keys: who may do what, and until when. A new key's token is on the answer to its form and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import make_response, render_template, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import ask, finish, name_once
from batchinfer.admin.session import get_caller, get_context
from batchinfer.admin.spans import make_address, read_after
from batchinfer.domain import ids
from batchinfer.domain.ids import DEFAULT_TENANT, KEY, new_id
from batchinfer.domain.keys import OVERLAP_S, SCOPES, parse_key, parse_rotation
from batchinfer.errors import BadRequest, BatchinferError, Forbidden, NotFound
from batchinfer.observe.clock import utc_now
from batchinfer.services import keys, tenants

if TYPE_CHECKING:
    from flask import Blueprint, Response
    from werkzeug.wrappers import Response as BaseResponse

ROWS = 50
MOST_TENANTS = 200
#: Days for which a key that is replaced may go on, and those that are chosen beforehand.
OVERLAPS, OVERLAP = (0, 1, 7, 30), OVERLAP_S // 86_400
#: Days after which a key may end, for the form; 0 for never.
DAYS = (0, 1, 7, 30, 90, 365)
FIELDS = ("name", "tenant", "expires_days", "requests_per_minute", "once")


def register(blueprint: Blueprint) -> None:
    """Add the list, the form and the acts."""
    blueprint.add_url_rule("/keys", view_func=show_keys)
    blueprint.add_url_rule("/keys/new", view_func=show_new_key)
    blueprint.add_url_rule("/keys/new", view_func=issue_key, methods=["POST"])
    blueprint.add_url_rule("/keys/<key_id>/rotate", view_func=ask_rotate_key)
    blueprint.add_url_rule("/keys/<key_id>/rotate", view_func=rotate_key, methods=["POST"])
    blueprint.add_url_rule("/keys/<key_id>/revoke", view_func=ask_revoke_key)
    blueprint.add_url_rule("/keys/<key_id>/revoke", view_func=revoke_key, methods=["POST"])


def show_keys() -> Response:
    """The list. Raises Forbidden, NotFound (a tenant)."""
    caller, tenant = get_caller(), request.args.get("tenant", "").strip()
    page = keys.list_keys(get_context(), caller, tenant=tenant or None, after=read_after(KEY), limit=ROWS)
    older = ids.show_id(KEY, page.data[-1].id) if page.has_more else None
    return make_response(
        render_template(
            "keys.html",
            keys=page.data,
            ids={one.id: ids.show_id(KEY, one.id) for one in page.data},
            own=caller.key_id,
            tenants=_list_tenants(),
            tenant=tenant,
            default_rate=get_context().settings.key_requests_per_minute,
            now=utc_now(),
            older=older and make_address("admin.show_keys", {"tenant": tenant}, after=older),
            newest=make_address("admin.show_keys", {"tenant": tenant}) if "after" in request.args else None,
        )
    )


def show_new_key() -> Response:
    """The form. Raises Forbidden."""
    get_caller().require("admin")
    return _render_form({"scopes": ["submit", "read", "cancel"], "expires_days": "90", "once": new_id().hex})


def issue_key() -> Response:
    """Make a key and show its token, this once. The form's own number makes one key of a form that is sent twice."""
    get_caller().require("admin")
    given: dict[str, Any] = {name: request.form.get(name, "").strip() for name in FIELDS}
    given["scopes"] = request.form.getlist("scopes")
    once = name_once("/admin/keys/new", given["once"], repr(given))
    try:
        key, token = keys.issue_key(get_context(), get_caller(), parse_key(_make_body(given)), once)
    except (BadRequest, Forbidden, NotFound) as error:
        return _render_form(given, error)
    return make_response(render_template("key_made.html", key=key, token=token))


def _make_body(given: dict[str, Any]) -> dict[str, Any]:
    """The body of the API's own request. A number that is none is left for its reader to refuse."""
    rate, days = given["requests_per_minute"], given["expires_days"]
    return {
        "name": given["name"] or None,
        "scopes": given["scopes"],
        "requests_per_minute": (int(rate) if rate.isdecimal() else rate) if rate else None,
        "expires_in": int(days) * 86_400 if days.isdecimal() and int(days) else None,
        "tenant": given["tenant"] or None,
    }


def _render_form(given: dict[str, Any], error: BatchinferError | None = None) -> Response:
    held = get_caller().scopes
    page = render_template(
        "key_form.html",
        given=given,
        error=error,
        wrong=(error.param or "").partition(".")[0] if error else None,
        scopes=[(scope, scope in held) for scope in SCOPES],
        days=DAYS,
        tenants=_list_tenants(),
    )
    return make_response(page, error.status if error else 200)


def _list_tenants() -> list[str]:
    """Names to choose among; none for others than the operator."""
    if get_caller().tenant_id != DEFAULT_TENANT:
        return []
    return [tenant.name for tenant in tenants.list_tenants(get_context(), get_caller(), limit=MOST_TENANTS).data]


def ask_rotate_key(key_id: str) -> Response:
    """The form: for how long the old one goes on. Raises Forbidden, NotFound."""
    key = keys.get_key(get_context(), get_caller(), ids.parse_id(KEY, key_id))
    return make_response(render_template("key_rotate.html", key=key, days=OVERLAPS, usual=OVERLAP, once=new_id().hex))


def rotate_key(key_id: str) -> Response:
    """Replace it, and show the new one's token, this once. Raises Forbidden, NotFound, BadRequest, Conflict."""
    found, days = ids.parse_id(KEY, key_id), request.form.get("overlap_days", "").strip()
    overlap_s = parse_rotation({"overlap": int(days) * 86_400 if days.isdecimal() and len(days) < 6 else days})
    once = name_once(f"/admin/keys/{found.hex}/rotate", request.form.get("once", ""), days)
    key, token = keys.rotate_key(get_context(), get_caller(), found, overlap_s, once)
    return make_response(render_template("key_made.html", key=key, token=token))


def ask_revoke_key(key_id: str) -> Response:
    """The question. Raises Forbidden, NotFound."""
    caller = get_caller()
    key = keys.get_key(get_context(), caller, ids.parse_id(KEY, key_id))
    text = _("Whoever uses it is refused at once. It cannot be taken back: make another key.")
    if key.id == caller.key_id:
        text = _("This is the key that you are signed in with: you leave these pages. It cannot be taken back.")
    return ask(
        _("Revoke the key %(name)s?", name=key.name),
        verb=_("Revoke the key"), text=text, danger=True, back=url_for("admin.show_keys"),
    )  # fmt: skip


def revoke_key(key_id: str) -> BaseResponse:
    """End it at once. Raises Forbidden, NotFound."""
    key, ended = keys.revoke_key(get_context(), get_caller(), ids.parse_id(KEY, key_id))
    said = _("The key %(name)s was revoked.", name=key.name)
    if not ended:
        said = _("The key %(name)s had been revoked before.", name=key.name)
    return finish(said, url_for("admin.show_keys"))
