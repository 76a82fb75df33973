"""Jobs: a list that the address alone decides, newest first, paged by key; and the same as a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, redirect, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.job_filters import Filters, read_filters, write_moment
from batchinfer.admin.live import render_live
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.domain.bulk_acts import BulkVerb
from batchinfer.domain.jobs import JobClass
from batchinfer.errors import NotFound
from batchinfer.services import documents, job_files, models
from batchinfer.store import pages
from batchinfer.store.job_search import LOOKS, LOOKS_AT_TEXTS

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as BaseResponse

ROWS = 50


def register(blueprint: Blueprint) -> None:
    """Add the page and the files."""
    blueprint.add_url_rule("/jobs", view_func=show_jobs)
    blueprint.add_url_rule("/jobs.<form>", view_func=send_jobs)


def show_jobs() -> BaseResponse:
    """The list. Raises BadRequest for a filter that cannot be."""
    context, caller = get_context(), get_caller()
    if (job_id := (request.args.get("q") or "").strip()).startswith(ids.JOB):
        return redirect(url_for("admin.show_job", job_id=job_id), 303)
    filters = read_filters()
    with context.db.transaction() as tx:
        listed = pages.search_rows(
            tx, caller.tenant_id, filters.search, before=filters.before, after=filters.after, limit=ROWS
        )
        counts = pages.count_states(tx, caller.tenant_id, filters.search)
    known = [model.name for model in models.list_models(context, caller)]
    state = filters.search.state
    return render_live(
        "jobs.html",
        "_jobs.html",
        filters=filters,
        search=filters.search,
        rows=listed.rows,
        counts=counts,
        stopped=ids.read_time(listed.stopped) if listed.stopped else None,
        most_looks=LOOKS if filters.search.words is None else LOOKS_AT_TEXTS,
        document=_find_document(filters),
        models=known,
        classes=[one.value for one in JobClass],
        verbs=[verb for verb in BulkVerb if state is None or state in verb.states],
        moment_field=write_moment,
        most_rows=job_files.MOST_ROWS,
        first_model=known[0] if known else "docreader",
        newer=_turn(filters, "before", listed),
        older=_turn(filters, "after", listed),
    )


def send_jobs(form: str) -> Response:
    """What matches as a file, one job a line. Raises NotFound, BadRequest."""
    writers = {"jsonl": job_files.write_jsonl, "csv": job_files.write_csv}
    if form not in writers:
        raise NotFound(_("Jobs are sent as .jsonl or .csv."))
    search = read_filters().search
    lines = writers[form](get_context(), get_caller(), search)
    kind = {"jsonl": "application/x-ndjson", "csv": "text/csv"}[form]
    response = Response(lines, content_type=f"{kind}; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="jobs.{form}"'
    return response


def _find_document(filters: Filters) -> Any:
    if filters.search.document_id is None:
        return None
    return documents.get_document(get_context(), get_caller(), filters.search.document_id)


def _turn(filters: Filters, direction: str, listed: pages.Listed) -> str | None:
    """The address of the page beside this one; None where the list ends there."""
    upwards = filters.before is not None and filters.after is None
    asked = upwards if direction == "before" else not upwards
    if asked and listed.stopped is not None:
        return filters.address(**{direction: ids.show_id(ids.JOB, listed.stopped)})
    if not listed.rows:
        # Nothing that way: back from where one came.
        came = filters.after if direction == "before" else filters.before
        return filters.address(**{direction: ids.show_id(ids.JOB, came)}) if came is not None else None
    exists = listed.has_more if asked else (filters.before or filters.after) is not None
    edge = listed.rows[0 if direction == "before" else -1]
    return filters.address(**{direction: ids.show_id(ids.JOB, edge.id)}) if exists else None
