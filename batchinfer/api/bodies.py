"""Nouns as JSON: a frozen value of domain or store in, a schema out; and the answer that carries it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response

from batchinfer.api.schemas import (
    AttemptBody,
    DocumentBody,
    JobBody,
    MinuteBody,
    ModelBody,
    OverviewBody,
    WaitingBody,
    WorkerBody,
)
from batchinfer.domain.confidence import show_confidence
from batchinfer.domain.ids import DOCUMENT, JOB, WORKER, show_id
from batchinfer.domain.jobs import TERMINAL, JobState
from batchinfer.domain.runs import find_page_outcome
from batchinfer.observe.clock import to_unix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from pydantic import BaseModel

    from batchinfer.domain.documents import Document
    from batchinfer.domain.jobs import Attempt, Job
    from batchinfer.domain.runs import PageOutcome
    from batchinfer.store.fleet import Model
    from batchinfer.store.leases import Worker
    from batchinfer.store.series import Overview

_NUMBERS = (
    "preparing", "queued", "running", "rendering", "oldest_waiting_s", "oldest_snapshot_s", "succeeded_last_hour",
    "failed_last_hour", "images_per_s", "tokens_per_s", "jobs_per_s",
)  # fmt: skip
_RESULT = ("text", "finish_reason", "model", "revision", "engine", "versions")


def reply(body: BaseModel, status: int = 200) -> Response:
    """An answer of JSON."""
    return Response(body.model_dump_json(by_alias=True) + "\n", status, mimetype="application/json")


def show_job(job: Job) -> JobBody:
    """A job as users see it."""
    return JobBody.model_validate(
        {
            "id": show_id(JOB, job.id),
            "status": job.state,
            "model": job.model,
            "created_at": to_unix(job.created_at),
            "started_at": to_unix(job.started_at),
            "finished_at": to_unix(job.finished_at),
            "attempts": job.attempts,
            "crashes": job.crashes,
            "result": _show_result(job.result) if job.result else None,
            "usage": job.usage,
            "error": show_error(job.error),
            "document_id": show_id(DOCUMENT, job.document_id) if job.document_id else None,
            "page": job.page,
            "outcome": _find_outcome(job),
            "retry_of": show_id(JOB, job.origin_id) if job.origin_id else None,
            "retried_as": show_id(JOB, job.retry_id) if job.retry_id else None,
            "trace_id": job.trace_id,
            "metadata": job.metadata,
            "timings": job.timings,
            "cached": job.cached,
        }
    )


def _find_outcome(job: Job) -> PageOutcome | None:
    """How a page ended; None of what is no page, has not ended, or was cancelled."""
    if job.document_id is None or job.state not in TERMINAL - {JobState.CANCELLED}:
        return None
    engine = job.result["engine"] if job.result else None
    return find_page_outcome(succeeded=job.state is JobState.SUCCEEDED, engine=engine)


def _show_result(result: dict[str, Any]) -> dict[str, Any]:
    confidence = show_confidence(result["text"], result.get("logprobs"))
    return {name: result[name] for name in _RESULT} | {"confidence": confidence}


def show_attempt(attempt: Attempt) -> AttemptBody:
    """An ended try as users see it."""
    return AttemptBody.model_validate(
        {
            "number": attempt.number,
            "outcome": attempt.outcome,
            "worker": attempt.worker,
            "started_at": to_unix(attempt.started_at),
            "finished_at": to_unix(attempt.finished_at),
            "error": show_error(attempt.error),
            "timings": attempt.timings,
        }
    )


def show_document(document: Document, page_ids: Sequence[UUID] = ()) -> DocumentBody:
    """A document as users see it, with the ids of its page jobs in page order."""
    return DocumentBody.model_validate(
        {
            "id": show_id(DOCUMENT, document.id),
            "status": document.state,
            "model": document.model,
            "filename": document.filename,
            "media_type": document.media_type,
            "created_at": to_unix(document.created_at),
            "finished_at": to_unix(document.finished_at),
            "pages": document.pages,
            "page_counts": document.counts,
            "jobs": [show_id(JOB, page_id) for page_id in page_ids],
            "error": show_error(document.error),
        }
    )


def show_model(model: Model) -> ModelBody:
    """A model as OpenAI lists it."""
    return ModelBody(
        id=model.name,
        created=int(model.created_at.timestamp()),
        revision=model.revision,
        status=model.state,
    )


def show_worker(worker: Worker) -> WorkerBody:
    """A worker as operators see it."""
    return WorkerBody(
        id=show_id(WORKER, worker.lease_id),
        name=worker.worker,
        role=worker.role,
        host=worker.host,
        pid=worker.pid,
        model=worker.model,
        device=worker.device,
        slots=worker.slots,
        running=worker.running,
        alive=not worker.dead,
        started_at=int(worker.opened_at.timestamp()),
        ended_at=to_unix(worker.ended_at),
        end_reason=worker.end_reason,
        silent_s=round(worker.silent_s, 1),
        info=worker.info,
    )


def show_overview(overview: Overview) -> OverviewBody:
    """The numbers of the first page."""
    numbers = {name: getattr(overview, name) for name in _NUMBERS}
    return OverviewBody(
        **numbers,
        waiting=[WaitingBody.model_validate(vars(row)) for row in overview.waiting],
        minutes=[MinuteBody.model_validate({**vars(row), "minute": to_unix(row.minute)}) for row in overview.minutes],
        workers=[show_worker(worker) for worker in overview.workers],
    )


def show_error(error: dict[str, Any] | None) -> dict[str, Any] | None:
    """The stored error of a job: message, type, param and code, all four always there."""
    if error is None:
        return None
    return {
        "message": error.get("message", ""),
        "type": error.get("type", "server_error"),
        "param": error.get("param"),
        "code": error.get("code", "failed"),
    }
