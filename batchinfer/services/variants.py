"""A user's verb: ask what a job asked with some of it changed, about the same pictures, as a new job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batchinfer.domain.fields import join, read_text, refuse
from batchinfer.domain.ids import JOB, show_id
from batchinfer.domain.limits import Limits
from batchinfer.domain.messages import Stored, expand_places
from batchinfer.domain.prompts import MAX_MODEL_CHARS, MAX_PAIRS, JobRequest, Upload
from batchinfer.domain.sampling import parse_max_tokens
from batchinfer.errors import Conflict
from batchinfer.media.sniff import PICTURES
from batchinfer.services import jobs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from batchinfer.domain.jobs import Job
    from batchinfer.services.context import Caller, Context

#: In the new job's metadata: which job it was made from.
CHANGED_FROM = "changed_from"


@dataclass(frozen=True)
class Changes:
    """What is to be other: the texts of the messages in order, the model, and max_tokens."""

    texts: tuple[str, ...]
    model: str
    max_tokens: int


def list_texts(prompt: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The texts of a stored prompt in order, each with the role that says it."""
    return [
        (message.get("role", ""), part.get("text") or "")
        for message in prompt.get("messages") or []
        for part in message.get("content") or []
        if part.get("type") == "text"
    ]


def submit_variant(ctx: Context, caller: Caller, job_id: UUID, changes: Changes) -> Job:
    """Submit a job like another one, with changes; its metadata says which. Nothing of the first one changes.

    Raises NotFound (job_not_found, model_not_found), BadRequest, Conflict (job_files_gone), Busy, Forbidden.
    """
    caller.require("submit")
    caller.require("read")
    job = jobs.find_own(ctx, caller, job_id)
    request = _build(ctx, job, changes)
    request = replace(request, uploads=tuple(_find_uploads(ctx, job)))
    new, _ = jobs.submit(ctx, caller, request)
    return jobs.find_own(ctx, caller, new.id)


def _build(ctx: Context, job: Job, changes: Changes) -> JobRequest:
    limits, prompt = Limits.of(ctx.settings), job.prompt
    metadata = {**job.metadata, CHANGED_FROM: show_id(JOB, job.id)}
    if len(metadata) > MAX_PAIRS:
        metadata = dict(job.metadata)
    return JobRequest(
        model=read_text(changes.model, "model", max_chars=MAX_MODEL_CHARS),
        job_class=job.job_class,
        messages=tuple(_change(prompt, changes.texts, limits)),
        uploads=(),
        sampling=dict(prompt.get("sampling") or {}),
        max_tokens=parse_max_tokens({"max_tokens": changes.max_tokens}, limits),
        stop=tuple(prompt.get("stop") or ()),
        response_format=prompt.get("response_format"),
        metadata=metadata,
        expires_in_s=None,
    )


def _change(prompt: Mapping[str, Any], texts: Sequence[str], limits: Limits) -> list[dict[str, Any]]:
    """The stored messages with other texts. Raises BadRequest."""
    images = prompt.get("images") or []
    messages = [dict(message) for message in expand_places(prompt.get("messages") or [], images)]
    if len(texts) != len(list_texts(prompt)):
        refuse("texts", "must be as many as the job has. Open the form again.")
    if sum(map(len, texts)) > limits.max_prompt_chars:
        refuse("texts", f"are longer than {limits.max_prompt_chars:,} characters together.", "prompt_too_long")
    if not images and not any(text.strip() for text in texts):
        refuse("texts", "ask nothing. Say what to do.", "missing_required_parameter")
    left = iter(texts)
    return [
        {**message, "content": [{**p, "text": next(left)} if p["type"] == "text" else p for p in message["content"]]}
        for message in messages
    ]


def _find_uploads(ctx: Context, job: Job) -> list[Upload]:
    """The pictures as the model saw them, else as they were sent. Raises Conflict where one is gone."""
    found = []
    for index, image in enumerate(job.prompt.get("images") or []):
        forms = [image.get("normal") or {}, image]
        kept = next((form for form in forms if form.get("media_type") in PICTURES and _keep(ctx, job, form)), None)
        if kept is None:
            raise Conflict(
                f"A picture of job {show_id(JOB, job.id)} is no longer kept. Submit a new job with its file.",
                code="job_files_gone",
            )
        size_bytes = ctx.blobs.size_bytes(job.tenant_id, kept["sha256"])
        stored = Stored(kept["sha256"], size_bytes, kept["media_type"])
        found.append(Upload(b"", None, image.get("param") or join("images", index), stored=stored))
    return found


def _keep(ctx: Context, job: Job, form: Mapping[str, Any]) -> bool:
    """Keep a picture's bytes from being removed until the new job refers to them; False where they are gone."""
    return bool(form.get("sha256")) and ctx.blobs.keep(job.tenant_id, form["sha256"])
