"""Model: its revisions and what came of their files, what is known of it, where it runs, and the acts on its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, make_response, render_template, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import finish
from batchinfer.admin.live import render_live
from batchinfer.admin.placed import place
from batchinfer.admin.session import get_caller, get_context
from batchinfer.services import deployments, models, registry

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as BaseResponse


def register(blueprint: Blueprint) -> None:
    """Add the page and the acts on files. A model's name may hold a slash, so acts take it from the query."""
    blueprint.add_url_rule("/models/<path:name>", view_func=show_model)
    blueprint.add_url_rule("/fetch", view_func=take_fetch, methods=["POST"])
    blueprint.add_url_rule("/cancel-fetch", view_func=take_cancel_fetch, methods=["POST"])
    blueprint.add_url_rule("/verify", view_func=take_verify, methods=["POST"])
    blueprint.add_url_rule("/prune", view_func=show_prune)
    blueprint.add_url_rule("/prune", view_func=take_prune, methods=["POST"])


def show_model(name: str) -> Response:
    """The page. Raises NotFound."""
    context, caller = get_context(), get_caller()
    model = models.get_model(context, caller, name)
    standings = [one for one in deployments.list_deployments(context, caller) if one.deployment.model == model.name]
    return render_live(
        "model.html",
        "_model.html",
        model=model,
        revisions=registry.list_revisions(context, caller, model.name),
        standings=standings,
        placed={one.deployment.id: place(one.replicas) for one in standings},
        serving={one.deployment.revision for one in standings},
    )


def _asked() -> tuple[str, str]:
    return request.args.get("model", ""), request.args.get("revision", "")


def take_fetch() -> BaseResponse:
    """Have a CPU worker bring the files of a revision. Raises NotFound, Forbidden."""
    model, revision = _asked()
    registry.fetch(get_context(), get_caller(), model, revision)
    return finish(_("A CPU worker fetches the files."), url_for("admin.show_model", name=model))


def take_cancel_fetch() -> BaseResponse:
    """End a fetch; what has come is kept. Raises NotFound, Forbidden."""
    model, revision = _asked()
    registry.cancel_fetch(get_context(), get_caller(), model, revision)
    return finish(_("The fetch was ended; what has come is kept for the next one."),
                  url_for("admin.show_model", name=model))  # fmt: skip


def take_verify() -> BaseResponse:
    """Have a CPU worker read the files of a revision again. Raises NotFound, Conflict, Forbidden."""
    model, revision = _asked()
    registry.verify(get_context(), get_caller(), model, revision)
    return finish(_("A CPU worker reads the files again."), url_for("admin.show_model", name=model))


def show_prune() -> Response:
    """What would go and what that frees: of all models, of one, or of one revision. Raises NotFound, Forbidden."""
    model, revision = _asked()
    found = registry.prune(
        get_context(), get_caller(), model=model or None, revision=(revision or None) if model else None, dry_run=True
    )
    return make_response(
        render_template(
            "prune.html",
            found=found,
            freed=sum(one.size_bytes for one in found if one.kept is None),
            going=sum(one.kept is None for one in found),
            model=model,
            back=url_for("admin.show_model", name=model) if model else url_for("admin.show_models"),
        )
    )


def take_prune() -> BaseResponse:
    """Take the files away. Raises NotFound, Forbidden."""
    model, revision = _asked()
    found = registry.prune(
        get_context(), get_caller(), model=model or None, revision=(revision or None) if model else None
    )
    freed = sum(one.size_bytes for one in found if one.kept is None)
    target = url_for("admin.show_model", name=model) if model else url_for("admin.show_models")
    return finish(_("%(mib)s MiB were freed.", mib=f"{freed // 2**20:,}"), target)
