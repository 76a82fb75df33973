"""A model made known: a folder of the service's machine, a repository of a hub, or a folder in a bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, make_response, render_template, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import finish
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain.registry import SourceKind, parse_register
from batchinfer.errors import BadRequest, BatchinferError, Unavailable
from batchinfer.services import registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from werkzeug.wrappers import Response as BaseResponse

#: The field of a source that says where it is, by kind; one field of the form stands for all of them.
_PLACES: dict[str, str] = {
    SourceKind.FOLDER: "path", SourceKind.HUGGING_FACE: "repo", SourceKind.MODELSCOPE: "repo", SourceKind.BUCKET: "uri",
}  # fmt: skip
_FIELDS = ("name", "kind", "place", "revision")


def register(blueprint: Blueprint) -> None:
    """Add the form and what it does."""
    blueprint.add_url_rule("/register", view_func=show_register)
    blueprint.add_url_rule("/register", view_func=take_register, methods=["POST"])


def show_register() -> Response:
    """The form. Raises Forbidden."""
    get_caller().require("fetch")
    return _render({**dict.fromkeys(_FIELDS, ""), "kind": SourceKind.HUGGING_FACE})


def take_register() -> BaseResponse:
    """List the source and make the revision known; nothing of its weights is fetched. Raises Forbidden."""
    get_caller().require("fetch")
    values = {name: request.form.get(name, "").strip() for name in _FIELDS}
    try:
        made = registry.register(get_context(), get_caller(), parse_register(_make_body(values)))
    except (BadRequest, Unavailable) as error:
        return _render(values, error)
    told = _("%(name)s is known. Fetch its files next.", name=made.model)
    return finish(told, url_for("admin.show_model", name=made.model))


def _make_body(values: Mapping[str, str]) -> dict[str, Any]:
    kind = values["kind"]
    source: dict[str, Any] = {"kind": kind}
    source[_PLACES.get(kind, "path")] = values["place"] or None
    if values["revision"]:
        source["revision"] = values["revision"]
    return {"name": values["name"] or None, "source": source}


def _render(values: Mapping[str, str], error: BatchinferError | None = None) -> Response:
    """`field` is where in the form an error belongs."""
    param = error.param if error else None
    last = (param or "").rsplit(".", 1)[-1]
    field = "place" if last in (*_PLACES.values(), "source") else last if last in _FIELDS else ""
    page = render_template("register.html", values=values, error=error, field=field, kinds=list(SourceKind))
    return make_response(page, error.status if error else 200)
