"""What of a job is a thing of its own: its result as text or JSON, and where its time went."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply, show_error
from batchinfer.api.conditional import tag
from batchinfer.api.openapi import KEY, UNCHANGED, refusals
from batchinfer.api.queries import JobPath
from batchinfer.api.schemas import SpanBody, TimelineBody
from batchinfer.api.state import current
from batchinfer.domain.ids import JOB, parse_id, show_id
from batchinfer.services import jobs

if TYPE_CHECKING:
    from batchinfer.domain.jobs import Job
    from batchinfer.domain.timelines import Span

routes = APIBlueprint(
    "job_reads",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "jobs"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
_RESULT: dict[str, Any] = {
    "description": "The answer as it is: JSON where the request asked for JSON, else text.",
    "content": {"text/plain": {"schema": {"type": "string"}}, "application/json": {"schema": {}}},
}
_JSON_FORMATS = frozenset({"json_object", "json_schema"})


@routes.get(
    "/jobs/<job_id>/result",
    operation_id="get_result",
    responses={200: _RESULT, 304: UNCHANGED, **refusals(409)},
)
def get_result(path: JobPath) -> Response:
    """The answer alone, byte for byte; 409 where there is none, or none yet."""
    job = jobs.read_result(current().context, caller(), parse_id(JOB, path.job_id))
    text = (job.result or {})["text"]
    kind = "application/json" if _is_json(job, text) else "text/plain; charset=utf-8"
    return tag(Response(text.encode("utf-8", "replace"), content_type=kind))


def _is_json(job: Job, text: str) -> bool:
    """Whether JSON was asked for and came: an answer that was cut at its limit is none."""
    if (job.prompt.get("response_format") or {}).get("type") not in _JSON_FORMATS:
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@routes.get("/jobs/<job_id>/timeline", operation_id="get_timeline", responses={200: TimelineBody})
def get_timeline(path: JobPath) -> Response:
    """Where the time of a job went: waiting, preparing, prefill, decoding, storing; and every try with its end."""
    job_id = parse_id(JOB, path.job_id)
    timeline = jobs.read_timeline(current().context, caller(), job_id)
    return reply(
        TimelineBody(
            job_id=show_id(JOB, job_id),
            trace_id=timeline.trace_id,
            total_s=round(timeline.total_s, 6),
            stages={stage: round(seconds, 6) for stage, seconds in timeline.stages.items()},
            spans=[_show_span(span) for span in timeline.spans],
        )
    )


def _show_span(span: Span) -> SpanBody:
    ended = span.try_
    return SpanBody.model_validate(
        {
            "kind": span.kind,
            "started_at": span.started_at.timestamp(),
            "finished_at": span.finished_at.timestamp() if span.finished_at else None,
            "stages": {stage: round(seconds, 6) for stage, seconds in span.stages.items()},
            "attempt": ended.number if ended else None,
            "outcome": ended.outcome if ended else None,
            "worker": ended.worker if ended else None,
            "error": show_error(ended.error) if ended else None,
        }
    )
