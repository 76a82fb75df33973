"""Job: the picture beside the answer, what was asked, every attempt, where the time went, how to repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request

from batchinfer.admin.judging import UNSURE, compare, judge
from batchinfer.admin.live import render_live
from batchinfer.admin.repeat import write_curl
from batchinfer.admin.session import get_caller, get_context
from batchinfer.admin.waterfall import draw_rows, draw_way
from batchinfer.domain import ids
from batchinfer.domain.bulk_acts import REPEATABLE
from batchinfer.domain.jobs import LIVE, TERMINAL, Job
from batchinfer.errors import NotFound
from batchinfer.services import jobs
from batchinfer.services.variants import CHANGED_FROM
from batchinfer.store import pages, pages_job

if TYPE_CHECKING:
    from batchinfer.admin.judging import Line


@dataclass(frozen=True)
class Comparison:
    """Another job's answer held against this one's. `lines` None: too long; none at all: the same."""

    job_id: str
    lines: list[Line] | None


def register(blueprint: Blueprint) -> None:
    """Add the page and the answer as a file."""
    blueprint.add_url_rule("/jobs/<job_id>", view_func=show_job)
    blueprint.add_url_rule("/jobs/<job_id>/answer.txt", view_func=send_answer)


def show_job(job_id: str) -> Response:
    """The page. Raises NotFound."""
    context, caller = get_context(), get_caller()
    job = jobs.get_job(context, caller, ids.parse_id(ids.JOB, job_id))
    timeline = jobs.read_timeline(context, caller, job.id)
    leaf = None
    with context.db.transaction() as tx:
        if job.document_id is not None and job.page is not None:
            leaf = pages.find_leaf(tx, caller.tenant_id, job.document_id, job.page)
        answerer = pages_job.find_answerer(tx, caller.tenant_id, job.id)
    return render_live(
        "job.html",
        "_job.html",
        job=job,
        job_id=job_id,
        ended=job.state in TERMINAL,
        can_cancel=job.state in LIVE,
        can_retry=job.state in REPEATABLE and job.retry_id is None,
        leaf=leaf,
        answer=(job.result or {}).get("text"),
        judged=judge(job),
        unsure=UNSURE,
        answerer=answerer,
        comparison=_compare(job),
        attempts=[span.try_ for span in timeline.spans if span.try_ is not None][::-1],
        timeline=timeline,
        rows=draw_rows(timeline, job.usage),
        way=draw_way(job, timeline),
        curl=write_curl(job, request.host_url),
    )


def send_answer(job_id: str) -> Response:
    """The whole answer as a text file; never shown in the page's origin. Raises NotFound."""
    job = jobs.get_job(get_context(), get_caller(), ids.parse_id(ids.JOB, job_id))
    response = Response((job.result or {}).get("text") or "", content_type="text/plain; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{ids.show_id(ids.JOB, job.id)}.txt"'
    return response


def _compare(job: Job) -> Comparison | None:
    """Against the job that the address names, else against the one that this one was made from."""
    asked = request.args.get("against")
    named = asked or job.metadata.get(CHANGED_FROM)
    if not isinstance(named, str) or job.result is None:
        return None
    try:
        other = jobs.get_job(get_context(), get_caller(), ids.parse_id(ids.JOB, named))
    except NotFound:
        if asked:
            raise
        return None  # anybody may write anything into metadata
    if other.result is None or other.id == job.id:
        return None
    return Comparison(ids.show_id(ids.JOB, other.id), compare(other.result["text"], job.result["text"]))
