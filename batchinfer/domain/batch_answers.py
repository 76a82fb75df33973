"""Lines of a batch's output and error files. The bodies in them are those of the API's own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.domain.batch_items import NEVER_RAN, show_fault
from batchinfer.domain.batches import NATIVE
from batchinfer.domain.confidence import show_confidence
from batchinfer.domain.ids import BATCH_LINE, COMPLETION, JOB, MESSAGE, REQUEST, RESPONSE, show_id
from batchinfer.domain.jobs import Job, JobClass, JobState
from batchinfer.domain.responses import find_status
from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

_TIERS = {JobClass.INTERACTIVE: "default", JobClass.NORMAL: "default", JobClass.BATCH: "flex"}


def show_line(job: Job, custom_id: str, endpoint: str) -> tuple[bool, dict[str, Any]]:
    """The line of a job that has ended, and whether it belongs into the output file; else into that of errors."""
    if job.state in NEVER_RAN:
        return False, _line(job.id, custom_id, None, NEVER_RAN[job.state])
    if job.state is JobState.SUCCEEDED:
        return True, _line(job.id, custom_id, _respond(job.id, 200, _BODIES[endpoint](job)), None)
    error = show_fault(job.state, job.error or {}) or {}
    status = 400 if error["type"] == BadRequest.kind else 500
    return False, _line(job.id, custom_id, _respond(job.id, status, {"error": error}), None)


def show_unread(line_id: UUID, custom_id: str) -> dict[str, Any]:
    """The line of a request that was never made a job, as its batch was cancelled before."""
    return _line(line_id, custom_id, None, NEVER_RAN[JobState.CANCELLED])


def _line(
    line_id: UUID, custom_id: str, response: dict[str, Any] | None, error: dict[str, str] | None
) -> dict[str, Any]:
    return {"id": show_id(BATCH_LINE, line_id), "custom_id": custom_id, "response": response, "error": error}


def _respond(job_id: UUID, status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": show_id(REQUEST, job_id), "body": body}


def _completion(job: Job) -> dict[str, Any]:
    result, usage = job.result or {}, job.usage or {}
    logprobs = result.get("logprobs")
    content = [{**entry, "bytes": list(entry["token"].encode()), "top_logprobs": []} for entry in logprobs or ()]
    return {
        "id": show_id(COMPLETION, job.id),
        "object": "chat.completion",
        "created": int(job.created_at.timestamp()),
        "model": job.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": result["text"], "refusal": None},
                "logprobs": None if logprobs is None else {"content": content},
                "finish_reason": result["finish_reason"],
            }
        ],
        "usage": {name: usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
        | {"prompt_tokens_details": _details(usage)},
        "service_tier": _TIERS[job.job_class],
        "system_fingerprint": result["revision"] or None,
        "batchinfer": {"cached": job.cached},
    }


def _details(usage: dict[str, Any]) -> dict[str, int]:
    details: dict[str, int] = usage.get("prompt_tokens_details", {})
    return {"image_tokens": 0, "cached_tokens": 0} | details


def _response(job: Job) -> dict[str, Any]:
    result, usage, status = job.result or {}, job.usage or {}, find_status(job)
    text = {"type": "output_text", "text": result["text"], "annotations": []}
    message = {"type": "message", "role": "assistant", "status": status, "content": [text]}
    return {
        "id": show_id(RESPONSE, job.id),
        "object": "response",
        "created_at": int(job.created_at.timestamp()),
        "status": status,
        "model": job.model,
        "output": [{"id": show_id(MESSAGE, job.id), **message}],
        "usage": {
            "input_tokens": usage.get("prompt_tokens", 0),
            "input_tokens_details": _details(usage),
            "output_tokens": usage.get("completion_tokens", 0),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.get("total_tokens", 0),
        },
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "metadata": job.metadata,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "batchinfer": {"cached": job.cached},
    }


_RESULT = ("text", "finish_reason", "model", "revision", "engine", "versions")


def _native(job: Job) -> dict[str, Any]:
    result = job.result or {}
    return {
        "id": show_id(JOB, job.id),
        "object": "job",
        "status": job.state.value,
        "model": job.model,
        "created_at": int(job.created_at.timestamp()),
        "finished_at": int(job.finished_at.timestamp()) if job.finished_at else None,
        "attempts": job.attempts,
        "result": {name: result.get(name) for name in _RESULT}
        | {"confidence": show_confidence(result.get("text") or "", result.get("logprobs"))},
        "usage": job.usage,
        "metadata": job.metadata,
        "cached": job.cached,
    }


_BODIES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "/v1/chat/completions": _completion,
    "/v1/responses": _response,
    NATIVE: _native,
}
