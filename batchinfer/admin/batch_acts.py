"""What is done to a batch from its page: pause, resume, another class, cancel, try again, draw a sample."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

from flask import Blueprint, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import ask, finish
from batchinfer.admin.batch import find_own
from batchinfer.admin.session import get_caller, get_context
from batchinfer.admin.shown import number
from batchinfer.domain import ids
from batchinfer.domain.batch_items import ONLY, parse_reread, parse_retry
from batchinfer.domain.batches import parse_class
from batchinfer.domain.review import MAX_SAMPLE, parse_sample
from batchinfer.domain.runs import SPEC_FIELDS
from batchinfer.errors import BadRequest
from batchinfer.services import batch_controls, batch_items, batches, rereading, reviewing, runs
from batchinfer.services.context import Idempotency
from batchinfer.store import batch_items as items_store

if TYPE_CHECKING:
    from uuid import UUID

    from werkzeug.wrappers import Response

_STATES = tuple(state.value for states in ONLY.values() for state in states)


def register(blueprint: Blueprint) -> None:
    """Add the acts; those that cannot be taken back are asked first."""
    one = "/batches/<batch_id>"
    for path, view in (("pause", pause), ("resume", resume), ("class", change_class), ("sample", draw), ("seal", seal)):
        blueprint.add_url_rule(f"{one}/{path}", f"{view.__name__}_batch", view, methods=["POST"])
    for path, question, act in (
        ("cancel", ask_cancel, cancel),
        ("retry", ask_retry, retry),
        ("again", ask_again, again),
    ):
        blueprint.add_url_rule(f"{one}/{path}", f"{question.__name__}_batch", question, methods=["GET"])
        blueprint.add_url_rule(f"{one}/{path}", f"{act.__name__}_batch", act, methods=["POST"])


def make_once(route: str) -> Idempotency | None:
    """The form's own mark as an idempotency key: pressed twice, it acts once. None where the form has none."""
    mark = request.form.get("once", "")[:64]
    told = "\0".join(f"{name}={value}" for name, values in sorted(request.form.lists()) for value in values)
    return Idempotency("POST", route, mark, hashlib.sha256(told.encode("utf-8", "replace")).digest()) if mark else None


def make_mark() -> str:
    """The mark of a form that acts once."""
    return f"page-{secrets.token_hex(16)}"


def _page(batch_id: str) -> str:
    return url_for("admin.show_batch", batch_id=batch_id)


def pause(batch_id: str) -> Response:
    """Begin nothing more of it. Raises NotFound, BadRequest, Conflict, Forbidden."""
    row, run = find_own(batch_id)
    if run is not None:
        runs.pause_run(get_context(), get_caller(), run.id)
    else:
        batch_controls.pause_batch(get_context(), get_caller(), row.batch.id)
    return finish(_("It is paused: what runs ends, nothing more begins, and its time passes."), _page(batch_id))


def resume(batch_id: str) -> Response:
    """Let it go on. Raises NotFound, BadRequest, Conflict, Forbidden."""
    row, run = find_own(batch_id)
    if run is not None:
        runs.resume_run(get_context(), get_caller(), run.id)
    else:
        batch_controls.resume_batch(get_context(), get_caller(), row.batch.id)
    return finish(_("It goes on."), _page(batch_id))


def change_class(batch_id: str) -> Response:
    """Give what has not ended another class. Raises NotFound, BadRequest, Forbidden."""
    row, _run = find_own(batch_id)
    wanted = parse_class({"class": request.form.get("class", "")})
    batch_controls.reclass_batch(get_context(), get_caller(), row.batch.id, wanted)
    return finish(_("What has not ended is of the class %(word)s now.", word=wanted.value), _page(batch_id))


def ask_cancel(batch_id: str) -> Response:
    """The question with the number of lines that have not ended. Raises NotFound, Forbidden."""
    get_caller().require("cancel")
    row, run = find_own(batch_id)
    counts = row.batch.counts
    left, ended = number(counts.total - counts.ended), number(counts.ended)
    text = (
        _("%(left)s pages have not ended and are cancelled, and so is what is not listed yet. %(ended)s are kept and "
          "written.", left=left, ended=ended)
        if run is not None
        else _("%(left)s lines have not ended and are cancelled. %(ended)s are kept and are in its files.",
               left=left, ended=ended)
    )  # fmt: skip
    return ask(_("Cancel this batch?"), verb=_("Cancel the batch"), text=text, back=_page(batch_id), danger=True)


def cancel(batch_id: str) -> Response:
    """End what has not ended. Raises NotFound, BadRequest, Conflict, Forbidden."""
    row, run = find_own(batch_id)
    if run is not None:
        runs.cancel_run(get_context(), get_caller(), run.id)
    else:
        batches.cancel_batch(get_context(), get_caller(), row.batch.id)
    return finish(_("It is being cancelled; what has ended is kept."), _page(batch_id))


def ask_retry(batch_id: str) -> Response:
    """The question with the exact number of lines, of one cause or of all. Raises NotFound, Forbidden."""
    get_caller().require("submit")
    row, run = find_own(batch_id)
    code = request.args.get("code", "")[:100]
    if run is not None:
        return _ask_reread(batch_id, run.id, code)
    with get_context().db.transaction() as tx:
        count = items_store.count_ended(tx, row.batch.id, _STATES, (), [code] if code else [])
    text = _(
        "%(count)s lines are read again from its file and become a new batch, which begins at once. Its files will "
        "hold the answers of both.",
        count=number(count),
    )
    title = _("Try the lines again that ended with %(code)s?", code=code) if code else _("Try all failed lines again?")
    fields = {"once": make_mark(), "code": code}
    return ask(
        title, verb=_("Try %(count)s lines again", count=number(count)), text=text, back=_page(batch_id), fields=fields
    )


def _ask_reread(batch_id: str, run_id: UUID, code: str) -> Response:
    count = rereading.count_documents(get_context(), get_caller(), run_id, [code] if code else [])
    text = _(
        "%(count)s documents with such pages are read again from their source, whole, as a new run with the same "
        "settings and sinks. Pages that were answered well are answered as before where answers are reused.",
        count=number(count),
    )
    title = _("Read documents again with pages that ended with %(code)s?", code=code) if code else _(
        "Read all documents again with pages that failed?")  # fmt: skip
    fields = {"once": make_mark(), "code": code}
    return ask(title, verb=_("Read %(count)s documents again", count=number(count)), text=text, back=_page(batch_id),
               fields=fields)  # fmt: skip


def retry(batch_id: str) -> Response:
    """Make a new batch of lines without an answer, or of a run a new run of documents with such pages. Raises NotFound,
    BadRequest, Busy, Forbidden."""
    row, run = find_own(batch_id)
    code = request.form.get("code", "")
    if run is not None:
        codes = parse_reread({"codes": [code]} if code else {})
        new, _replayed = rereading.reread_run(
            get_context(), get_caller(), run.id, codes, make_once(f"/admin/batches/{run.id.hex}/retry")
        )
        return finish(_("This new run reads those documents again."), _page(ids.show_id(ids.BATCH, new.id)))
    asked = parse_retry({"codes": [code]} if code else {})
    made, _replayed = batch_items.retry_batch(
        get_context(), get_caller(), row.batch.id, asked, make_once(f"/admin/batches/{row.batch.id.hex}/retry")
    )
    return finish(_("This new batch tries those lines again."), _page(ids.show_id(ids.BATCH, made.id)))


def ask_again(batch_id: str) -> Response:
    """The question before the same run is made once more. Raises NotFound, BadRequest, Forbidden."""
    get_caller().require("submit")
    _require_run(batch_id)
    text = _(
        "A new run reads the same source with the same settings. Documents that were read well and have not changed "
        "are left out; dates in the address of its source are filled in anew."
    )
    fields = {"once": make_mark()}
    return ask(_("Run this again?"), verb=_("Run it again"), text=text, back=_page(batch_id), fields=fields)


def again(batch_id: str) -> Response:
    """Declare the same run once more. Raises NotFound, BadRequest, Busy, Forbidden."""
    run_id = _require_run(batch_id)
    run = runs.get_run(get_context(), get_caller(), run_id)
    body = {name: run.spec[name] for name in SPEC_FIELDS if run.spec.get(name) is not None}
    made, _replayed = runs.declare_run(
        get_context(), get_caller(), body, make_once(f"/admin/batches/{run_id.hex}/again")
    )
    return finish(_("This new run reads the same source."), _page(ids.show_id(ids.BATCH, made.id)))


def seal(batch_id: str) -> Response:
    """Write what of a run's results could not be written. Raises NotFound, BadRequest, Forbidden."""
    reviewing.seal_run(get_context(), get_caller(), _require_run(batch_id))
    return finish(_("What could not be written is written once more."), _page(batch_id))


def draw(batch_id: str) -> Response:
    """Draw a sample of a run that has ended, and go to review it. Raises NotFound, BadRequest, Conflict, Forbidden."""
    run_id, said = _require_run(batch_id), request.form.get("size", "").strip()
    if not said.isdecimal() or len(said) > 5:
        raise BadRequest(f"`size` must be a whole number from 0 to {MAX_SAMPLE:,}.", param="size")
    reviewing.draw_sample(get_context(), get_caller(), run_id, parse_sample({"size": int(said)}, "body").size)
    return finish(_("The sample is drawn."), url_for("admin.show_review", batch_id=batch_id))


def _require_run(batch_id: str) -> UUID:
    row, run = find_own(batch_id)
    if run is None:
        raise BadRequest("This batch is no run over documents. Try its failed lines again instead.")
    return row.batch.id
