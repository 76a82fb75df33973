"""Pictures of a job as the model saw them: the normalised copy, never what a user sent."""

from __future__ import annotations

from flask import Blueprint, Response, request, send_file

from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.errors import NotFound
from batchinfer.services import jobs

#: Kinds that our own sandbox writes; anything else in the row is not shown.
SHOWN = frozenset({"image/png", "image/jpeg", "image/webp"})


def register(blueprint: Blueprint) -> None:
    """Add the address of pictures."""
    blueprint.add_url_rule("/jobs/<job_id>/images/<int:index>", view_func=show_picture)


def show_picture(job_id: str, index: int) -> Response:
    """The picture. Raises NotFound: no such job, no such picture, not prepared yet, no longer kept."""
    context, caller = get_context(), get_caller()
    job = jobs.get_job(context, caller, ids.parse_id(ids.JOB, job_id))
    images = job.prompt.get("images") or []
    normal = images[index].get("normal") if index < len(images) else None
    if not normal or normal.get("media_type") not in SHOWN:
        raise NotFound("This job has no such picture, or it is not prepared yet.")
    sha256 = str(normal["sha256"])
    if not context.blobs.exists(caller.tenant_id, sha256):
        raise NotFound("The bytes of this picture are no longer kept here.")
    response = send_file(
        context.blobs.path(caller.tenant_id, sha256),
        mimetype=normal["media_type"],
        etag=sha256,
        conditional=True,
        max_age=0,
    )
    # Kept by this browser only, and asked for again with each use, so a revoked key sees nothing new.
    response.headers["Cache-Control"] = "private, no-cache"
    response.make_conditional(request)
    return response
