"""Acts of the pages: a question with the exact count, a form that works without a script, a word when it is done.

    return ask(_("Cancel this job?"), verb=_("Cancel the job"), back=url_for(...))      # GET
    return finish(_("The job was cancelled."), url_for(...))                            # POST

Services check scopes and write the audit row; `may(scope)` keeps buttons from those who could not press them.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Response, flash, g, make_response, redirect, render_template, request, url_for

from batchinfer.services.context import Idempotency

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Blueprint
    from werkzeug.wrappers import Response as BaseResponse


def register(blueprint: Blueprint) -> None:
    """Offer `may(scope)` to templates."""
    blueprint.add_app_template_global(may, "may")


def may(scope: str) -> bool:
    """Whether the key that is signed in has a scope."""
    caller = g.get("caller")
    return caller is not None and scope in caller.scopes


def ask(
    title: str, *, verb: str, back: str, text: str = "", danger: bool = False, fields: Mapping[str, str] | None = None
) -> Response:
    """The question before an act. Its form goes to the address of the question itself, by POST.

    `fields` travel with it unseen; `text` says what will happen and to how many. With JavaScript the form opens in a
    dialog on the page where the link was; without it is a page.
    """
    return make_response(
        render_template(
            "confirm.html", title=title, verb=verb, text=text, danger=danger, fields=fields or {}, back=back
        )
    )


def finish(message: str, target: str) -> BaseResponse:
    """Go to a page that says once what was done."""
    flash(message)
    return redirect(target, 303)


def name_once(route: str, said: str, content: str) -> Idempotency:
    """What makes of a form that is sent twice one act: `said` is what the form says of the page it stood on, `content`
    all that the act is made of."""
    digests = [sha256(text.encode("utf-8", "replace")) for text in (said, content)]
    return Idempotency("POST", route, f"pages-{digests[0].hexdigest()}", digests[1].digest())


def find_way_back() -> str:
    """The page of ours that one came from; the overview where that is not known."""
    came = find_came_from()
    if came is None or urlsplit(came).path == request.path:
        return url_for("admin.show_overview")
    return came


def find_came_from() -> str | None:
    """The page of ours whose link or form led here, with its query; None where that is not known."""
    came = urlsplit(request.referrer or "")
    if came.netloc != request.host or not came.path.startswith("/admin/"):
        return None
    return came.path + (f"?{came.query}" if came.query else "")
