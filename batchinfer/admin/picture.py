"""Pictures of a job as the model saw them: the normalised copy, never what a user sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request, send_file

from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.errors import NotFound
from batchinfer.services import jobs

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Kinds that our own sandbox writes; anything else in the row is not shown.
SHOWN = frozenset({"image/png", "image/jpeg", "image/webp"})


def register(blueprint: Blueprint) -> None:
    """Add the address of pictures, and for templates whether one is small."""
    blueprint.add_app_template_global(is_small)
    blueprint.add_url_rule("/jobs/<job_id>/images/<int:index>", view_func=show_picture)


def show_picture(job_id: str, index: int) -> Response:
    """The picture, or where it was let go of with its document, its small copy.

    Raises NotFound: no such job, no such picture, not prepared yet, no longer kept.
    """
    context, caller = get_context(), get_caller()
    job = jobs.get_job(context, caller, ids.parse_id(ids.JOB, job_id))
    images = job.prompt.get("images") or []
    forms = list_forms(images[index]) if index < len(images) else []
    if not forms:
        raise NotFound("This job has no such picture, or it is not prepared yet.")
    kept = next((form for form in forms if context.blobs.exists(caller.tenant_id, form["sha256"])), None)
    if kept is None:
        raise NotFound("The bytes of this picture are no longer kept here.")
    response = send_file(
        context.blobs.path(caller.tenant_id, kept["sha256"]),
        mimetype=kept["media_type"],
        etag=kept["sha256"],
        conditional=True,
        max_age=0,
    )
    # Kept by this browser only, and asked for again with each use, so a revoked key sees nothing new.
    response.headers["Cache-Control"] = "private, no-cache"
    response.make_conditional(request)
    return response


def list_forms(image: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The forms of a prompt's picture that may be shown: as the model saw it, then its small copy."""
    forms = (image.get("normal") or {}, image.get("thumbnail") or {})
    return [form for form in forms if form.get("media_type") in SHOWN and form.get("sha256")]


def is_small(image: Mapping[str, Any]) -> bool:
    """Whether only the small copy of a picture is left to be shown."""
    context, caller = get_context(), get_caller()
    forms = list_forms(image)
    return bool(image.get("thumbnail")) and not context.blobs.exists(caller.tenant_id, forms[0]["sha256"])
