"""A body of `POST /v1/chat/completions` made a job: what changes nothing is dropped, what cannot be is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batchinfer.domain.fields import check_plain, join, read_flag, read_object, refuse
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.prompts import JOB_FIELDS, JobRequest, parse_job
from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.domain.limits import Limits

#: Fields that change an answer in ways that no job can, each with the values that ask for nothing.
UNSERVED: dict[str, tuple[object, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "logit_bias": ({},),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "web_search_options": (),
}
#: Members of a message that carry something; all others but role and content are dropped.
_WEIGHTY = frozenset({"tool_calls", "function_call", "tool_call_id", "audio"})
#: Tiers of OpenAI that leave the choice to the server.
_OPEN_TIERS = (None, "auto", "default")


@dataclass(frozen=True)
class ChatRequest:
    """A valid chat completion: the job under it, and how its answer is to be told."""

    job: JobRequest
    stream: bool = False
    include_usage: bool = False


def parse_chat(body: object, limits: Limits, *, job_class: JobClass = JobClass.INTERACTIVE) -> ChatRequest:
    """A request from a decoded JSON body. `job_class` is taken where the body leaves it open.

    Raises BadRequest with the dotted path of the field.
    """
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object with `model` and `messages`.", code="invalid_type")
    check_plain(body)
    refuse_unserved(body, UNSERVED)
    stream = body.get("stream") is not None and read_flag(body["stream"], "stream")
    include_usage = _read_stream_options(body, stream=stream)
    given = {name: value for name, value in body.items() if name in JOB_FIELDS and name != "stream"}
    given["messages"] = plain_messages(given.get("messages"))
    job = parse_job(open_class(given, job_class), limits)
    return ChatRequest(replace(job, pages_inline=True), stream, include_usage)


def refuse_unserved(body: Mapping[str, object], unserved: Mapping[str, tuple[object, ...]]) -> None:
    """Refuse a field that asks for what is not served. Raises BadRequest `unsupported_parameter`."""
    for name, harmless in unserved.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            refuse(name, "is not served here and would change the answer. Leave it out.", "unsupported_parameter")


def open_class(given: dict[str, Any], job_class: JobClass) -> dict[str, Any]:
    """The same body with its class settled, where neither `class` nor `service_tier` says one."""
    if given.get("class") is None and given.get("service_tier") in _OPEN_TIERS:
        return {**given, "class": job_class.value, "service_tier": None}
    return given


def _read_stream_options(body: Mapping[str, object], *, stream: bool) -> bool:
    value = body.get("stream_options")
    if value is None:
        return False
    if not stream:
        refuse("stream_options", "is for `stream: true` only. Leave it out.")
    include = read_object(value, "stream_options").get("include_usage")
    return include is not None and read_flag(include, join("stream_options", "include_usage"))


def plain_messages(messages: object) -> object:
    """Messages as clients echo them, reduced to what a job takes: `developer` is `system`, names are dropped.

    What is wrong with them stays wrong, for the parser to name.
    """
    return [_plain_message(message) for message in messages] if isinstance(messages, list) else messages


def _plain_message(message: object) -> object:
    if not isinstance(message, dict):
        return message
    kept = {name: value for name, value in message.items() if name in ("role", "content") or _carries(name, value)}
    if kept.get("role") == "developer":
        kept["role"] = "system"
    if isinstance(kept.get("content"), list):
        kept["content"] = [_plain_part(part) for part in kept["content"]]
    return kept


def _carries(name: str, value: object) -> bool:
    return name in _WEIGHTY and bool(value)


def _plain_part(part: object) -> object:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return part
    return {name: value for name, value in part.items() if name in ("type", part["type"])}
