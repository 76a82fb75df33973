"""An error of the tree as a page: its sentence, which says what to do next, and nothing of a library."""

from __future__ import annotations

from typing import NoReturn

import structlog
from flask import Blueprint, Response, g, make_response, render_template
from flask_babel import gettext as _
from flask_babel import lazy_gettext
from werkzeug.exceptions import HTTPException

from batchinfer.admin.acting import find_way_back
from batchinfer.errors import BatchinferError, Internal, MethodNotAllowed, NotFound

TITLES = {
    400: lazy_gettext("That cannot be"),
    403: lazy_gettext("Not with this key"),
    404: lazy_gettext("Not here"),
    409: lazy_gettext("Not any more"),
    429: lazy_gettext("Too often"),
    503: lazy_gettext("Just now it does not answer"),
}
log = structlog.get_logger(__name__)


def register(blueprint: Blueprint) -> None:
    """Answer errors under /admin with a page, unknown addresses too."""
    blueprint.register_error_handler(BatchinferError, show_error)
    blueprint.register_error_handler(HTTPException, show_http_error)
    blueprint.register_error_handler(Exception, show_crash)
    blueprint.add_url_rule("/<path:rest>", view_func=miss)


def miss(rest: str) -> NoReturn:  # noqa: ARG001 - the path as it was asked for
    """An address under /admin that is no page. Raises NotFound."""
    raise NotFound("There is no such page. The way back is through the menu.")


def show_error(error: BatchinferError) -> Response:
    """The page of an error."""
    title = TITLES.get(error.status, _("That went wrong"))
    response = make_response(
        render_template("error.html", title=title, error=error, caller=g.get("caller"), back=find_way_back()),
        error.status,
    )
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def show_http_error(error: HTTPException) -> Response:
    """Flask's own errors in our words; redirects and ready answers pass."""
    if error.response is not None or (error.code or 500) < 400:
        return make_response(error.get_response())
    if error.code == 405:
        return show_error(MethodNotAllowed("This address does not take that kind of request."))
    if error.code == 404:
        return show_error(NotFound("There is no such page. The way back is through the menu."))
    answer = show_error(BatchinferError("The request could not be read. Go back and try again."))
    answer.status_code = error.code or 500
    return answer


def show_crash(error: Exception) -> Response:
    """Our own fault: written to the log with its trace, shown without it."""
    log.error("admin_page_failed", exc_info=error)
    return show_error(
        Internal("Something went wrong here, not with you. Try again; the log of the web server says what it was.")
    )
