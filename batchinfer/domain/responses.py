"""A body of `POST /v1/responses` made a job. A job is seen as a response in one of six words."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from batchinfer.domain.chat import open_class, refuse_unserved
from batchinfer.domain.fields import (
    check_plain,
    join,
    read_flag,
    read_list,
    read_object,
    read_text,
    read_word,
    refuse,
    require,
)
from batchinfer.domain.jobs import Job, JobClass, JobState
from batchinfer.domain.prompts import JobRequest, parse_job
from batchinfer.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.domain.limits import Limits

#: Fields that change an answer in ways that no job can, each with the values that ask for nothing.
UNSERVED: dict[str, tuple[object, ...]] = {
    "stream": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "previous_response_id": (),
    "conversation": (),
    "prompt": (),
    "top_logprobs": (0,),
}
#: Fields that mean the same in a job.
_SAME = (
    "model", "temperature", "top_p", "metadata", "class", "service_tier", "expires_in", "seed", "top_k", "min_p",
    "repetition_penalty", "stop", "cache",
)  # fmt: skip
_PARTS = ("input_text", "output_text", "input_image", "input_file")
_SHOWN = {
    JobState.PREPARING: "queued", JobState.QUEUED: "queued", JobState.RUNNING: "in_progress",
    JobState.SUCCEEDED: "completed", JobState.CANCELLED: "cancelled", JobState.FAILED: "failed",
    JobState.EXPIRED: "failed", JobState.QUARANTINED: "failed",
}  # fmt: skip


@dataclass(frozen=True)
class ResponseRequest:
    """A valid response: the job under it, and whether its answer is waited for."""

    job: JobRequest
    background: bool = False


def find_status(job: Job) -> str:
    """queued, in_progress, completed, incomplete (cut at max_output_tokens), failed or cancelled."""
    cut = job.state is JobState.SUCCEEDED and (job.result or {}).get("finish_reason") == "length"
    return "incomplete" if cut else _SHOWN[job.state]


def parse_response(body: object, limits: Limits, *, job_class: JobClass | None = None) -> ResponseRequest:
    """A request from a decoded JSON body. Where the body leaves the class open it is `job_class`: unless given, normal
    in the background, else interactive. Raises BadRequest with the dotted path of the field."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object with `model` and `input`.", code="invalid_type")
    check_plain(body)
    refuse_unserved(body, UNSERVED)
    background = body.get("background") is not None and read_flag(body["background"], "background")
    given: dict[str, Any] = {name: body[name] for name in _SAME if name in body}
    given["max_tokens"] = body.get("max_output_tokens")
    given["response_format"] = _read_format(body.get("text"))
    instructions = _read_instructions(body.get("instructions"), limits)
    given["messages"] = instructions + _read_input(require(body, "input", "Send a text or a list of messages."))
    usual = JobClass.NORMAL if background else JobClass.INTERACTIVE
    try:
        job = parse_job(open_class(given, job_class or usual), limits)
    except (BadRequest, NotFound) as error:
        _raise_renamed(error, len(instructions))
    uploads = tuple(replace(upload, param=_rename(upload.param, len(instructions))) for upload in job.uploads)
    return ResponseRequest(replace(job, uploads=uploads, pages_inline=True), background)


def _read_format(text: object) -> dict[str, Any] | None:
    """`text.format` as a job's `response_format`: the members of a schema lie one level deeper there."""
    if text is None or (value := read_object(text, "text").get("format")) is None:
        return None
    given = read_object(value, "text.format")
    if given.get("type") != "json_schema":
        return given
    inner = {name: value for name, value in given.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": inner}


def _read_instructions(value: object, limits: Limits) -> list[dict[str, Any]]:
    if value is None or value == "":
        return []
    return [{"role": "system", "content": read_text(value, "instructions", max_chars=limits.max_prompt_chars)}]


def _read_input(value: object) -> list[Any]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        refuse("input", "must be a text or a list of messages.", "invalid_type")
    return [_read_item(item, join("input", index)) for index, item in enumerate(value)]


def _read_item(value: object, at: str) -> dict[str, Any]:
    item = read_object(value, at)
    if item.get("type") is not None:
        read_word(item["type"], join(at, "type"), ("message",))
    role = require(item, "role", "Say system, developer, user or assistant.", at)
    content = require(item, "content", "Send a text or a list of parts.", at)
    if not isinstance(content, str):
        where = join(at, "content")
        content = [_read_part(part, join(where, index)) for index, part in enumerate(read_list(content, where))]
    return {"role": "system" if role == "developer" else role, "content": content}


def _read_part(value: object, at: str) -> dict[str, Any]:
    part = read_object(value, at)
    kind = read_word(require(part, "type", f"Say {', '.join(_PARTS)}.", at), join(at, "type"), _PARTS)
    if kind == "input_image":
        if part.get("file_id") is not None and part.get("image_url") is None:
            return {"type": "file", "file": {"file_id": part["file_id"]}}
        url = require(part, "image_url", "Send a data URL: data:image/png;base64,...", at)
        return {"type": "image_url", "image_url": {"url": url, "detail": part.get("detail")}}
    if kind == "input_file":
        named = ("filename", "file_data", "file_id", "file_url")
        return {"type": "file", "file": _given(part, named)}
    return {"type": "text", "text": require(part, "text", "Send the text.", at)}


def _given(part: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: part[name] for name in names if part.get(name) is not None}


def _raise_renamed(error: BadRequest | NotFound, instructions: int) -> NoReturn:
    """The same error about the field as it was sent."""
    param = _rename(error.param, instructions) if error.param else None
    message = _rename(error.message, instructions)
    raise type(error)(message, code=error.code, param=param) from None


def _rename(text: str, instructions: int) -> str:
    """Paths of a job in a text, as paths of a response: `messages.1.content.0.image_url.url` and the like."""
    text = re.sub(r"\bmessages\.(\d+)", lambda found: _show_item(int(found[1]) - instructions), text)
    text = re.sub(r"(content\.\d+)\.image_url\.url\b", r"\1.image_url", text)
    text = re.sub(r"(content\.\d+)\.image_url\.detail\b", r"\1.detail", text)
    text = re.sub(r"(content\.\d+)\.file\.(\w+)", r"\1.\2", text)
    text = re.sub(r"\bresponse_format(\.json_schema)?", "text.format", text)
    text = re.sub(r"(^|`)messages\b", r"\1input", text)
    return re.sub(r"\bmax_tokens\b", "max_output_tokens", text)


def _show_item(index: int) -> str:
    return f"input.{index}" if index >= 0 else "instructions"
