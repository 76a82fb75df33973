"""Signing in with an API key, signing out, and the lock before every other page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, g, make_response, redirect, render_template, request, session, url_for

from batchinfer.admin.acting import find_came_from
from batchinfer.admin.guard import Throttle
from batchinfer.admin.session import find_caller, get_context, sign_in
from batchinfer.errors import BatchinferError, Unauthenticated
from batchinfer.services.sessions import begin_session, end_session

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as BaseResponse

#: Views that anybody may see.
OPEN = frozenset({"admin.static", "admin.show_sign_in", "admin.take_sign_in", "admin.sign_out"})
throttle = Throttle()


def register(blueprint: Blueprint) -> None:
    """Lock the pages and add the door."""
    blueprint.before_request(require_session)
    blueprint.add_url_rule("/sign-in", view_func=show_sign_in)
    blueprint.add_url_rule("/sign-in", view_func=take_sign_in, methods=["POST"])
    blueprint.add_url_rule("/sign-out", view_func=sign_out, methods=["POST"])


def require_session() -> BaseResponse | None:
    """Let a signed-in caller through; send everybody else to the sign-in page."""
    g.caller = None
    if request.endpoint in OPEN:
        return None
    g.caller = find_caller()
    if g.caller is not None:
        return None
    if request.headers.get("HX-Request"):  # a live region: make the whole page load again, and so come to the door
        return Response(status=401, headers={"HX-Refresh": "true"})
    if request.method == "GET":
        return redirect(url_for("admin.show_sign_in", next=request.full_path.rstrip("?")), 303)
    # A form came too late: nothing is done, and after signing in one is back at the page where it was.
    return redirect(url_for("admin.show_sign_in", next=find_came_from(), late=1), 303)


def show_sign_in() -> Response:
    """The form; `late` says that another form came after its session had ended."""
    return _form(None, 200, late="late" in request.args)


def take_sign_in() -> BaseResponse:
    """Check the key and start a session; any failure shows the form again with its sentence."""
    address = request.remote_addr or ""
    try:
        throttle.check(address)
        key = begin_session(get_context(), request.form.get("key", "").strip())
    except BatchinferError as error:
        if isinstance(error, Unauthenticated):
            throttle.count_failure(address)
        return _form(error, error.status)
    sign_in(key)
    return redirect(_safe_target(request.form.get("next")), 303)


def sign_out() -> BaseResponse:
    """End the session; of one that had ended nothing is noted."""
    caller = find_caller()
    if caller is not None:
        end_session(get_context(), caller)
    session.clear()
    return redirect(url_for("admin.show_sign_in"), 303)


def _form(error: BatchinferError | None, status: int, *, late: bool = False) -> Response:
    target = request.form.get("next") or request.args.get("next")
    response = make_response(render_template("sign_in.html", error=error, next=target, late=late), status)
    if error is not None and error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _safe_target(target: str | None) -> str:
    """Where to go after signing in: a page of ours, never another site."""
    if target and target.startswith("/admin/") and "\\" not in target and target.isprintable():
        return target
    return url_for("admin.show_overview")
