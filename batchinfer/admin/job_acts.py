"""Acts on one job: cancel, try again, release, delete; each asked first, each by the service that the API calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import ask, finish
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.services import jobs, repeats

if TYPE_CHECKING:
    from flask import Blueprint, Response
    from werkzeug.wrappers import Response as BaseResponse


def register(blueprint: Blueprint) -> None:
    """Add the questions and the acts."""
    for name, view in (("cancel", cancel_job), ("retry", retry_job), ("release", release_job), ("delete", delete_job)):
        blueprint.add_url_rule(f"/jobs/<job_id>/{name}", view_func=view, methods=["GET", "POST"])


def _address(job_id: str) -> str:
    return url_for("admin.show_job", job_id=job_id)


def cancel_job(job_id: str) -> Response | BaseResponse:
    """End a job that has not ended. Raises NotFound, Conflict, Forbidden."""
    if request.method == "GET":
        text = _("It gets no answer. What a worker has of it is dropped.")
        return ask(_("Cancel this job?"), text=text, verb=_("Cancel the job"), back=_address(job_id), danger=True)
    jobs.cancel_job(get_context(), get_caller(), ids.parse_id(ids.JOB, job_id))
    return finish(_("The job was cancelled."), _address(job_id))


def retry_job(job_id: str) -> Response | BaseResponse:
    """Do a job again that ended without a result, as a new one. Raises NotFound, Conflict, Busy, Forbidden."""
    if request.method == "GET":
        text = _("A new job asks the same; this one stays as it is, with its errors.")
        return ask(_("Try this job again?"), text=text, verb=_("Try again"), back=_address(job_id))
    new, _replayed = repeats.retry_job(get_context(), get_caller(), ids.parse_id(ids.JOB, job_id))
    return finish(_("This is the new job. It asks what the other one asked."), _address(ids.show_id(ids.JOB, new.id)))


def release_job(job_id: str) -> Response | BaseResponse:
    """Let a quarantined job run again. Raises NotFound, Conflict, Forbidden."""
    if request.method == "GET":
        text = _("Workers were lost while it ran. It runs alone now, and goes back here should it end one more.")
        return ask(_("Release this job?"), text=text, verb=_("Release the job"), back=_address(job_id))
    jobs.release_job(get_context(), get_caller(), ids.parse_id(ids.JOB, job_id))
    return finish(_("The job was released and waits for its turn."), _address(job_id))


def delete_job(job_id: str) -> Response | BaseResponse:
    """Delete an ended job. Raises NotFound, Conflict, Forbidden."""
    if request.method == "GET":
        text = _("Its prompt, answer and errors go at once, its files within minutes. This cannot be taken back.")
        return ask(_("Delete this job?"), text=text, verb=_("Delete the job"), back=_address(job_id), danger=True)
    repeats.delete_job(get_context(), get_caller(), ids.parse_id(ids.JOB, job_id))
    return finish(_("The job was deleted."), url_for("admin.show_jobs"))
