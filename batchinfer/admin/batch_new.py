"""A new batch from the page: a file of lines, or pictures and documents with one prompt; looked at before it begins.

What is uploaded lies among the user's files until the batch begins, or is thrown away. Nothing begins before its check
was shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, make_response, render_template, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import finish
from batchinfer.admin.batch_acts import make_mark, make_once
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.domain.batches import ENDPOINTS, PRIORITIES, parse_batch
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.limits import Limits
from batchinfer.domain.pipelines import parse_pipeline
from batchinfer.domain.userfiles import (
    BATCH,
    LONGEST_EXPIRY_S,
    MAX_FILENAME_CHARS,
    USER_DATA,
    parse_file_facts,
)
from batchinfer.errors import BadRequest
from batchinfer.services import batches, estimating, models, previewing, runs, userfiles
from batchinfer.store import measuring

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage
    from werkzeug.wrappers import Response as BaseResponse

#: What a form has beside its files.
_FORM_BYTES = 2**20
#: Files of one form: more are a folder, which a run reads where it lies.
MOST_FILES = 500
WINDOWS = ("1h", "6h", "24h", "7d")


@dataclass(frozen=True)
class Kept:
    """A file that was just uploaded."""

    id: str
    filename: str
    size_bytes: int


def register(blueprint: Blueprint) -> None:
    """Add the forms, their checks and their beginnings."""
    blueprint.add_url_rule("/batches/new", view_func=show_new_batch)
    for path, view in (("lines", check_lines), ("lines/start", start_lines), ("documents", check_documents),
                       ("documents/start", start_documents), ("discard", discard)):  # fmt: skip
        blueprint.add_url_rule(f"/batches/new/{path}", f"{view.__name__}_new", view, methods=["POST"])


def show_new_batch() -> Response:
    """The two forms. Raises Forbidden."""
    get_caller().require("submit")
    known = models.list_models(get_context(), get_caller())
    return make_response(
        render_template(
            "batch_new.html",
            models=sorted(known, key=lambda model: (model.state != "ready", model.name)),
            endpoints=ENDPOINTS,
            windows=WINDOWS,
            priorities=list(PRIORITIES),
            classes=list(JobClass),
            most_files=MOST_FILES,
        )
    )


def check_lines() -> Response:
    """Keep the file and say what a batch of it would be. Raises BadRequest, TooLarge, Forbidden, Unavailable."""
    (kept,) = _keep_files("lines", BATCH, most=1)
    said = {name: request.form.get(name, "") for name in ("endpoint", "completion_window", "priority")}
    found = estimating.validate_file(get_context(), get_caller(), parse_batch(_batch_body(kept.id, said)))
    return make_response(
        render_template("batch_check.html", kept=[kept], said=said, found=found, mark=make_mark(), form="lines")
    )


def start_lines() -> BaseResponse:
    """Make the batch that was checked. Raises BadRequest, NotFound, Busy, Forbidden."""
    body = _batch_body(request.form.get("file", ""), request.form)
    made, _replayed = batches.create_batch(
        get_context(), get_caller(), parse_batch(body), make_once("/admin/batches/new/lines")
    )
    return _finish(ids.show_id(ids.BATCH, made.id))


def check_documents() -> Response:
    """Keep the files and say what a run over them would be. Raises BadRequest, TooLarge, Forbidden, Unavailable."""
    context, caller = get_context(), get_caller()
    _allow_files()
    said = {name: request.form.get(name, "").strip() for name in ("model", "prompt", "class", "name")}
    parse_pipeline(_pipeline(said), Limits.of(context.settings))  # a form that cannot be keeps no file
    kept = _keep_files("documents", USER_DATA, most=MOST_FILES)
    body = _run_body([one.id for one in kept], said)
    preview = previewing.preview_run(context, caller, body)
    with context.db.transaction() as tx:
        measured = measuring.measure(tx, caller.tenant_id, said["model"])
    estimate = estimating.estimate(
        estimating.Demand(said["model"], requests=len(kept), max_output_tokens=2**53), measured
    )
    return make_response(
        render_template(
            "batch_check.html", kept=kept, said=said, preview=preview, estimate=estimate, mark=make_mark(),
            form="documents",
        )
    )  # fmt: skip


def start_documents() -> BaseResponse:
    """Begin the run that was checked. Raises BadRequest, NotFound, Busy, Forbidden."""
    body = _run_body(request.form.getlist("file")[:MOST_FILES], request.form)
    made, _replayed = runs.declare_run(get_context(), get_caller(), body, make_once("/admin/batches/new/documents"))
    return _finish(ids.show_id(ids.BATCH, made.id))


def discard() -> BaseResponse:
    """Throw away what was uploaded and not begun. Raises NotFound, Forbidden."""
    for shown in request.form.getlist("file")[:MOST_FILES]:
        userfiles.delete_file(get_context(), get_caller(), ids.parse_id(ids.FILE, shown))
    return finish(_("What was uploaded is thrown away."), url_for("admin.show_new_batch"))


def _finish(batch_id: str) -> BaseResponse:
    return finish(_("The batch has begun."), url_for("admin.show_batch", batch_id=batch_id))


def _batch_body(file_id: str, said: Any) -> dict[str, Any]:
    return {
        "input_file_id": file_id, "endpoint": said.get("endpoint"), "completion_window": said.get("completion_window"),
        "batchinfer": {"priority": said.get("priority") or "low"},
    }  # fmt: skip


def _pipeline(said: Any) -> dict[str, Any]:
    return {"model": said.get("model", ""), "prompt": said.get("prompt", ""), "class": said.get("class") or "batch"}


def _run_body(file_ids: list[str], said: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"source": {"files": file_ids}, "pipeline": _pipeline(said)}
    return body | ({"name": said["name"]} if said.get("name") else {})


def _allow_files() -> None:
    """Let this form be as large as files may be; they go through the disk. Raises Forbidden, TooLarge."""
    get_caller().require("submit")
    most = get_context().settings.max_file_bytes
    request.max_content_length, request.max_form_parts = most + _FORM_BYTES, MOST_FILES + 20
    if (request.content_length or 0) > most + _FORM_BYTES:
        raise userfiles.refuse_size(most)


def _keep_files(field: str, purpose: str, *, most: int) -> list[Kept]:
    """Put the files of a field among the user's files. Raises BadRequest, TooLarge, Forbidden, Unavailable."""
    _allow_files()
    given = [file for file in request.files.getlist(field) if file.filename]
    if not 1 <= len(given) <= most:
        raise BadRequest(
            "Choose a file first." if not given else f"Choose at most {most:,} files; a run reads whole folders.",
            param=field,
        )
    return [_keep_file(file, purpose) for file in given]


def _keep_file(file: FileStorage, purpose: str) -> Kept:
    facts = parse_file_facts(
        (file.filename or "")[-MAX_FILENAME_CHARS:], purpose, {"anchor": "created_at", "seconds": LONGEST_EXPIRY_S}
    )
    kept, _replayed = userfiles.upload_file(get_context(), get_caller(), facts, file.stream)
    return Kept(ids.show_id(ids.FILE, kept.id), kept.filename, kept.size_bytes)
