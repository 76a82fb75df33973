"""The spans of a job that has ended, made of the times that were recorded: nothing is measured for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import BATCH, DOCUMENT, JOB, show_id
from batchinfer.domain.timelines import STAGES, build_timeline
from batchinfer.observe.spans import EndedSpan, Fact
from batchinfer.observe.traces import derive_span_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.domain.jobs import Attempt
    from batchinfer.domain.timelines import Span
    from batchinfer.observe.traces import Trace

#: The stages of a try of a model, as spans. What is left over is the try's own.
_NAMES = {"waiting": "claim", "preparing": "prepare", "prefill": "prefill", "decoding": "decode", "storing": "store"}
_WELL = ("succeeded", "released")


@dataclass(frozen=True)
class EndedJob:
    """What is told of a job that has ended. Texts are no part of it."""

    id: UUID
    model: str
    job_class: str
    state: str
    created_at: datetime
    finished_at: datetime
    trace: Trace
    batch_id: UUID | None
    document_id: UUID | None
    page: int | None
    code: str | None
    usage: dict[str, Any] | None
    engine: str | None
    revision: str | None
    finish_reason: str | None

    @property
    def is_one_of_many(self) -> bool:
        """Whether it is a line of a batch or a page of a document."""
        return self.batch_id is not None or self.document_id is not None


def find_job_span(job_id: UUID) -> str:
    """The id of a job's span, the same wherever it is asked for."""
    return derive_span_id("job", job_id.hex)


def build_spans(job: EndedJob, tries: Sequence[Attempt]) -> list[EndedSpan]:
    """The job's span, below it its waiting and its tries, and below the tries of a model their stages.

    The same job gives the same ids: told of twice, a collector has it once.
    """
    timeline = build_timeline(job.created_at, tries, ended_at=job.finished_at, now=job.finished_at)
    own = job.trace.under(find_job_span(job.id))
    failed = None if job.state == "succeeded" else job.code or job.state
    spans = [
        EndedSpan("job", job.trace, own.span_id, job.created_at, job.finished_at, _describe(job), failed),
    ]
    for place, stretch in enumerate(timeline.spans):
        spans += _build_stretch(own, place, stretch, job)
    return spans


def _build_stretch(parent: Trace, place: int, stretch: Span, job: EndedJob) -> list[EndedSpan]:
    span_id = derive_span_id(parent.span_id, place, stretch.kind)
    ended_at = stretch.finished_at or job.finished_at
    tried = stretch.try_
    if tried is None:
        return [EndedSpan("wait", parent, span_id, stretch.started_at, ended_at)]
    facts: dict[str, str | int | float | bool] = {
        "batchinfer.attempt": tried.number,
        "batchinfer.outcome": tried.outcome,
    }
    if tried.worker:
        facts["batchinfer.worker"] = tried.worker
    if rows := (tried.timings or {}).get("rows"):
        facts["batchinfer.rows_per_step"] = rows
    error = None if tried.outcome in _WELL else str((tried.error or {}).get("code") or tried.outcome)
    name = "attempt" if stretch.kind == "infer" else stretch.kind
    own = EndedSpan(name, parent, span_id, stretch.started_at, ended_at, facts, error)
    return [own, *_build_stages(parent.under(span_id), stretch)] if stretch.kind == "infer" else [own]


def _build_stages(parent: Trace, stretch: Span) -> list[EndedSpan]:
    """Laid end to end in the order in which a try goes through them."""
    spans, at = [], stretch.started_at
    for stage in STAGES:
        seconds = stretch.stages.get(stage, 0.0)
        if seconds <= 0:
            continue
        until = at + timedelta(seconds=seconds)
        if name := _NAMES.get(stage):
            spans.append(EndedSpan(name, parent, derive_span_id(parent.span_id, name), at, until))
        at = until
    return spans


def _describe(job: EndedJob) -> dict[str, Fact]:
    """Names of OpenTelemetry's conventions where they have one (gen_ai), else our own."""
    usage = job.usage or {}
    facts: dict[str, Fact | None] = {
        "batchinfer.job_id": show_id(JOB, job.id),
        "batchinfer.class": job.job_class,
        "batchinfer.status": job.state,
        "batchinfer.batch_id": show_id(BATCH, job.batch_id) if job.batch_id else None,
        "batchinfer.document_id": show_id(DOCUMENT, job.document_id) if job.document_id else None,
        "batchinfer.page": job.page,
        "batchinfer.engine": job.engine,
        "batchinfer.revision": job.revision,
        "gen_ai.request.model": job.model,
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
        "batchinfer.finish_reason": job.finish_reason,
        "error.type": job.code,
    }
    return {name: value for name, value in facts.items() if value is not None}
