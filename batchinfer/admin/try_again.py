"""Run a job again with changes: its texts, model and max_tokens in a form; the same pictures; a new job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import make_response, render_template, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import finish
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.errors import BadRequest
from batchinfer.services import jobs, models, variants

if TYPE_CHECKING:
    from flask import Blueprint, Response
    from werkzeug.wrappers import Response as BaseResponse


def register(blueprint: Blueprint) -> None:
    """Add the form and its act."""
    blueprint.add_url_rule("/jobs/<job_id>/change", view_func=change_job, methods=["GET", "POST"])


def change_job(job_id: str) -> Response | BaseResponse:
    """The form with what the job asked; sent, a new job, shown beside the answer of this one.

    What cannot be is said above the form, which keeps what was written. Raises NotFound, Conflict, Busy, Forbidden.
    """
    context, caller = get_context(), get_caller()
    caller.require("submit")
    job = jobs.get_job(context, caller, ids.parse_id(ids.JOB, job_id))
    texts = variants.list_texts(job.prompt)
    model, max_tokens, error = job.model, str(job.prompt.get("max_tokens") or ""), None
    if request.method == "POST":
        model, max_tokens = request.form.get("model", ""), request.form.get("max_tokens", "")
        # A form sends the ends of lines as CR LF.
        given = tuple(text.replace("\r\n", "\n") for text in request.form.getlist("text"))
        try:
            changes = variants.Changes(given, model, _read_number(max_tokens))
            new = variants.submit_variant(context, caller, job.id, changes)
        except BadRequest as refused:
            error = refused
            texts = [(role, new_text) for (role, _old), new_text in zip(texts, given, strict=False)]
        else:
            address = url_for("admin.show_job", job_id=ids.show_id(ids.JOB, new.id))
            return finish(_("This is the new job, with your changes."), address)
    page = render_template(
        "job_change.html",
        job=job,
        job_id=job_id,
        texts=texts,
        model=model,
        max_tokens=max_tokens,
        most_tokens=context.settings.max_tokens,
        models=models.list_models(context, caller),
        error=error,
    )
    return make_response(page, 400 if error else 200)


def _read_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise BadRequest("`max_tokens` must be a whole number.", param="max_tokens") from None
