"""Job: the picture beside the answer, what was asked, every attempt, where the time went, how to repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, request

from batchinfer.admin.answers import read_tree
from batchinfer.admin.live import render_live
from batchinfer.admin.repeat import write_curl
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.domain.jobs import TERMINAL, Job
from batchinfer.services import jobs
from batchinfer.store import pages

#: Parts of a run in the order in which they happen, each with the figure of `timings` that it is.
PHASES = ("preparing", "prefill", "decoding")


@dataclass(frozen=True)
class Part:
    """A part of a job's time. `start` and `width` are thousandths of the whole."""

    name: str
    seconds: float
    place: int
    start: float
    width: float


def register(blueprint: Blueprint) -> None:
    """Add the page and the answer as a file."""
    blueprint.add_url_rule("/jobs/<job_id>", view_func=show_job)
    blueprint.add_url_rule("/jobs/<job_id>/answer.txt", view_func=send_answer)


def show_job(job_id: str) -> Response:
    """The page. Raises NotFound."""
    context, caller = get_context(), get_caller()
    job = jobs.get_job(context, caller, ids.parse_id(ids.JOB, job_id))
    leaf = None
    if job.document_id is not None and job.page is not None:
        with context.db.transaction() as tx:
            leaf = pages.find_leaf(tx, caller.tenant_id, job.document_id, job.page)
    answer = (job.result or {}).get("text")
    return render_live(
        "job.html",
        "_job.html",
        job=job,
        job_id=job_id,
        ended=job.state in TERMINAL,
        leaf=leaf,
        answer=answer,
        tree=read_tree(answer) if answer else None,
        attempts=jobs.list_attempts(context, caller, job.id)[::-1],
        parts=split_time(job),
        curl=write_curl(job, request.host_url),
    )


def send_answer(job_id: str) -> Response:
    """The whole answer as a text file; never shown in the page's origin. Raises NotFound."""
    job = jobs.get_job(get_context(), get_caller(), ids.parse_id(ids.JOB, job_id))
    response = Response((job.result or {}).get("text") or "", content_type="text/plain; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{ids.show_id(ids.JOB, job.id)}.txt"'
    return response


def split_time(job: Job) -> list[Part]:
    """Where an ended job's time went: waiting, then the phases that the engine measured, else the run."""
    if job.finished_at is None or job.started_at is None:
        return []
    waited_s = (job.started_at - job.created_at).total_seconds()
    ran_s = (job.finished_at - job.started_at).total_seconds()
    spans = [(name, max(0.0, seconds)) for name, seconds in _find_phases(job.timings or {}, waited_s, ran_s)]
    whole = sum(seconds for _, seconds in spans)
    parts: list[Part] = []
    start = 0.0
    for place, (name, seconds) in enumerate(spans):
        width = 1000 * seconds / whole if whole else 0.0
        parts.append(Part(name, seconds, place, round(start, 2), round(width, 2)))
        start += width
    return parts


def _find_phases(timings: dict[str, Any], waited_s: float, ran_s: float) -> list[tuple[str, float]]:
    measured = {name: float(value) for name, value in timings.items() if isinstance(value, int | float)}
    phases = [(name, measured[name]) for name in PHASES if name in measured]
    if not phases:
        return [("waiting", waited_s), ("running", ran_s)]
    # A claimed job waits in the engine until a row is free; what no phase explains went into writing the result.
    in_engine_s = measured.get("waiting", 0.0)
    stored_s = ran_s - in_engine_s - sum(seconds for _, seconds in phases)
    return [("waiting", waited_s + in_engine_s), *phases, ("storing", stored_s)]
