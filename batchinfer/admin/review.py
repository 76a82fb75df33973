"""Review of a run's sample: picture by picture, right or wrong by one key each, and what that says of all its pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import finish
from batchinfer.admin.answers import read_tree
from batchinfer.admin.batch import find_own
from batchinfer.admin.picture import list_forms
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.domain.review import parse_golden, parse_judgement
from batchinfer.domain.runs import find_page_outcome
from batchinfer.errors import NotFound
from batchinfer.services import reviewing
from batchinfer.store import reviews

if TYPE_CHECKING:
    from uuid import UUID

    from werkzeug.wrappers import Response as BaseResponse

    from batchinfer.domain.review import Review


def register(blueprint: Blueprint) -> None:
    """Add the way into a review, its pages and its verdicts."""
    blueprint.add_url_rule("/batches/<batch_id>/review", view_func=show_review)
    blueprint.add_url_rule("/batches/<batch_id>/review/<job_id>", view_func=show_reviewed)
    blueprint.add_url_rule("/batches/<batch_id>/review/<job_id>", view_func=judge, methods=["POST"])
    blueprint.add_url_rule("/batches/<batch_id>/review/<job_id>/golden", view_func=keep, methods=["POST"])


def show_review(batch_id: str) -> BaseResponse:
    """The first page without a verdict; where there is none, what the verdicts say. Raises NotFound."""
    run_id = _find_run(batch_id)
    context, caller = get_context(), get_caller()
    page, accuracy = reviewing.list_sample(context, caller, run_id, verdict="none", limit=1)
    if page.data:
        return redirect(_address(batch_id, page.data[0].job_id), 303)
    some, _accuracy = reviewing.list_sample(context, caller, run_id, limit=1)
    wrong, _accuracy = reviewing.list_sample(context, caller, run_id, verdict="wrong", limit=20)
    return make_response(
        render_template(
            "review_over.html", batch_id=batch_id, accuracy=accuracy, first=some.data[0] if some.data else None,
            wrong=wrong,
        )
    )  # fmt: skip


def show_reviewed(batch_id: str, job_id: str) -> Response:
    """A page of the sample beside its answer. Raises NotFound."""
    run_id = _find_run(batch_id)
    context, caller = get_context(), get_caller()
    review = reviewing.get_page(context, caller, run_id, ids.parse_id(ids.JOB, job_id))
    following, accuracy = reviewing.list_sample(context, caller, run_id, after=review.job_id, limit=1)
    with context.db.transaction() as tx:
        before = reviews.find_before(tx, run_id, review.number)
    return make_response(
        render_template(
            "review.html",
            batch_id=batch_id,
            job_id=job_id,
            review=review,
            accuracy=accuracy,
            outcome=find_page_outcome(succeeded=True, engine=review.engine),
            has_picture=_has_picture(review),
            tree=read_tree(review.text) if review.text else None,
            previous=_address(batch_id, before) if before else None,
            following=_address(batch_id, following.data[0].job_id) if following.data else None,
        )
    )


def judge(batch_id: str, job_id: str) -> BaseResponse:
    """Note a verdict, or take it back where none is sent, and go on. Raises NotFound, BadRequest, Forbidden."""
    run_id, page_id = _find_run(batch_id), ids.parse_id(ids.JOB, job_id)
    context, caller = get_context(), get_caller()
    said = request.form.get("verdict") or None
    judgement = parse_judgement({"verdict": said, "note": request.form.get("note", "").strip() or None})
    reviewing.judge_page(context, caller, run_id, page_id, judgement)
    if said is None:
        return redirect(_address(batch_id, page_id), 303)
    further, _accuracy = reviewing.list_sample(context, caller, run_id, verdict="none", after=page_id, limit=1)
    if further.data:
        return redirect(_address(batch_id, further.data[0].job_id), 303)
    return redirect(url_for("admin.show_review", batch_id=batch_id), 303)


def keep(batch_id: str, job_id: str) -> BaseResponse:
    """Keep a page with its right answer as a golden prompt. Raises NotFound, BadRequest, Conflict, Forbidden."""
    run_id, context = _find_run(batch_id), get_context()
    answer = parse_golden(
        {"answer": request.form.get("answer", "").replace("\r\n", "\n")}, context.settings.max_prompt_chars
    )
    reviewing.keep_golden(context, get_caller(), run_id, ids.parse_id(ids.JOB, job_id), answer)
    return finish(
        _("It is kept as a golden prompt, with this answer."), _address(batch_id, ids.parse_id(ids.JOB, job_id))
    )


def _find_run(batch_id: str) -> UUID:
    _row, run = find_own(batch_id)
    if run is None:
        raise NotFound("Only a run over documents has a sample. The lines of this batch are in Jobs.")
    return run.id


def _address(batch_id: str, job_id: UUID) -> str:
    return url_for("admin.show_reviewed", batch_id=batch_id, job_id=ids.show_id(ids.JOB, job_id))


def _has_picture(review: Review) -> bool:
    """Whether a form that may be shown is still kept."""
    context, caller = get_context(), get_caller()
    images = review.prompt.get("images") or []
    forms = list_forms(images[0]) if images else []
    return any(context.blobs.exists(caller.tenant_id, form["sha256"]) for form in forms)
