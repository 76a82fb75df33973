"""A job as a chat completion, as the chunks of a stream, and as a response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.api.chat_schemas import ChatCompletion, ResponseBody
from batchinfer.domain.ids import COMPLETION, MESSAGE, RESPONSE, show_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.responses import find_status
from batchinfer.observe.clock import to_unix

if TYPE_CHECKING:
    from batchinfer.domain.jobs import Job

#: OpenAI's word for a class.
_TIERS = {JobClass.INTERACTIVE: "default", JobClass.NORMAL: "default", JobClass.BATCH: "flex"}


def show_completion(job: Job) -> ChatCompletion:
    """A job that succeeded as a chat completion."""
    result = job.result or {}
    return ChatCompletion.model_validate(
        {
            **_show_head(job),
            "choices": [
                {
                    "message": {"content": result["text"]},
                    "logprobs": show_logprobs(job),
                    "finish_reason": result["finish_reason"],
                }
            ],
            "usage": job.usage,
            "system_fingerprint": result["revision"] or None,
            "batchinfer": {"cached": job.cached},
        }
    )


def _show_head(job: Job) -> dict[str, Any]:
    """What a completion and each chunk of it begin with."""
    return {
        "id": show_id(COMPLETION, job.id),
        "created": to_unix(job.created_at),
        "model": job.model,
        "service_tier": _TIERS[job.job_class],
    }


def show_chunk(job: Job, delta: dict[str, str], **more: Any) -> dict[str, Any]:
    """A piece of a stream: what `delta` adds to the message."""
    choice = {"index": 0, "delta": delta, "logprobs": more.get("logprobs"), "finish_reason": more.get("finish_reason")}
    return {**_show_head(job), "object": "chat.completion.chunk", "choices": [choice]}


def show_last_chunks(job: Job, *, include_usage: bool) -> list[dict[str, Any]]:
    """How a stream ends: the finish reason, and where it was asked for the usage, in a chunk without choices."""
    result = job.result or {}
    last = show_chunk(job, {}, finish_reason=result["finish_reason"], logprobs=show_logprobs(job))
    if not include_usage:
        return [last]
    return [last, {**last, "choices": [], "usage": show_completion(job).usage.model_dump()}]


def show_logprobs(job: Job) -> dict[str, Any] | None:
    """The tokens of the answer with their logprobs, as OpenAI writes them; None where none were asked for."""
    entries = (job.result or {}).get("logprobs")
    if entries is None:
        return None
    shown = [{**entry, "bytes": list(entry["token"].encode()), "top_logprobs": []} for entry in entries]
    return {"content": shown}


def show_response(job: Job) -> ResponseBody:
    """A job in any state as a response."""
    status = find_status(job)
    sampling = job.prompt.get("sampling", {})
    return ResponseBody.model_validate(
        {
            "id": show_id(RESPONSE, job.id),
            "created_at": to_unix(job.created_at),
            "completed_at": to_unix(job.finished_at) if job.result else None,
            "status": status,
            "model": job.model,
            "output": [_show_message(job, status)] if job.result else [],
            "usage": _show_usage(job.usage) if job.usage else None,
            "error": _show_fault(job) if status == "failed" else None,
            "incomplete_details": {} if status == "incomplete" else None,
            "metadata": job.metadata,
            "service_tier": _TIERS[job.job_class],
            "max_output_tokens": job.prompt.get("max_tokens"),
            "temperature": sampling.get("temperature"),
            "top_p": sampling.get("top_p"),
            "batchinfer": {"cached": job.cached},
        }
    )


def _show_message(job: Job, status: str) -> dict[str, Any]:
    text = (job.result or {})["text"]
    return {"id": show_id(MESSAGE, job.id), "status": status, "content": [{"text": text}]}


def _show_usage(usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": usage.get("prompt_tokens_details", {}),
        "output_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
    }


def _show_fault(job: Job) -> dict[str, Any]:
    error = job.error or {}
    return {"code": error.get("code", "failed"), "message": error.get("message", "The job failed.")}
