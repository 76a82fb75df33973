"""Try it: one picture and one prompt on a model, as an ordinary urgent job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, make_response, render_template, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import finish
from batchinfer.admin.launch_form import read_number
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain.documents import Document
from batchinfer.domain.fields import require
from batchinfer.domain.ids import DOCUMENT, JOB, show_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.limits import Limits
from batchinfer.domain.prompts import Upload, parse_form, parse_job
from batchinfer.errors import BadRequest, BatchinferError, Busy, NotFound, Unsupported
from batchinfer.services import jobs, models

if TYPE_CHECKING:
    from collections.abc import Mapping

    from werkzeug.wrappers import Response as BaseResponse

    from batchinfer.domain.prompts import JobRequest

_FIELDS = ("model", "prompt", "max_tokens")


def register(blueprint: Blueprint) -> None:
    """Add the form and what it does."""
    blueprint.add_url_rule("/try", view_func=show_try)
    blueprint.add_url_rule("/try", view_func=take_try, methods=["POST"])


def show_try() -> Response:
    """The form. Raises Forbidden."""
    get_caller().require("submit")
    return _render({name: request.args.get(name, "") for name in _FIELDS})


def take_try() -> BaseResponse:
    """Submit it as any client would, and lead to the job; a PDF becomes a document. Raises Forbidden."""
    context, caller = get_context(), get_caller()
    caller.require("submit")
    values = {name: request.form.get(name, "").strip() for name in _FIELDS}
    file = request.files.get("file")
    uploads = []
    if file is not None and file.filename:
        name = file.filename.replace("\\", "/").rsplit("/", 1)[-1]
        uploads.append(Upload(file.stream.read(), name or None, "file"))
    try:
        made, _replayed = jobs.submit(context, caller, _read(values, uploads))
    except (BadRequest, NotFound, Unsupported, Busy) as error:
        return _render(values, error)
    if isinstance(made, Document):
        return finish(_("The document was submitted; each page is a job."),
                      url_for("admin.show_jobs", document=show_id(DOCUMENT, made.id)))  # fmt: skip
    return finish(_("The job was submitted."), url_for("admin.show_job", job_id=show_id(JOB, made.id)))


def _read(values: Mapping[str, str], uploads: list[Upload]) -> JobRequest:
    """The request of the form: with a file as a form of the API has it, without one as its JSON. Raises BadRequest."""
    limits = Limits.of(get_context().settings)
    given = {name: text for name, text in values.items() if text}
    prompt = require(given, "prompt", "Say what is asked.")
    urgent = {"class": JobClass.INTERACTIVE.value}
    if uploads:
        return parse_form({**given, **urgent}, uploads, limits)
    most = {"max_tokens": read_number(given["max_tokens"])} if "max_tokens" in given else {}
    messages = [{"role": "user", "content": prompt}]
    return parse_job({"model": given.get("model"), "messages": messages, **most, **urgent}, limits)


def _render(values: Mapping[str, str], error: BatchinferError | None = None) -> Response:
    known = models.list_models(get_context(), get_caller())
    page = render_template("try.html", values=values, error=error, models=known)
    return make_response(page, error.status if error else 200)
