"""What a user asks for, parsed at the door: past `parse_job` and `parse_form` only valid requests exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.domain import sampling
from batchinfer.domain.fields import (
    check_plain,
    decode_json,
    join,
    read_int,
    read_number,
    read_object,
    read_text,
    read_word,
    refuse,
    refuse_unknown,
    require,
)
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.limits import Limits
from batchinfer.domain.messages import (
    MAX_FILENAME_CHARS,
    Upload,
    check_upload_count,
    parse_messages,
    refuse_empty,
)
from batchinfer.domain.reuse import Reuse, parse_cache
from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["JobRequest", "Limits", "Upload", "parse_form", "parse_job"]

MAX_MODEL_CHARS = 256
MAX_PAIRS, MAX_KEY_CHARS, MAX_VALUE_CHARS = 16, 64, 512
#: 30 days, the longest that OpenAI keeps a batch's output.
MAX_EXPIRES_IN_S = 30 * 86_400.0

_COMMON = sampling.FIELDS | {"model", "class", "service_tier", "metadata", "expires_in", "cache", "n", "stream"}
JOB_FIELDS = _COMMON | {"messages"}
FORM_FIELDS = _COMMON | {"prompt", "system"}
#: Names that others use, and ours for the same.
HINTS = {
    "priority": "class", "deadline": "expires_in", "timeout": "expires_in", "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens", "input": "messages", "guided_regex": "response_format",
    "guided_choice": "response_format", "guided_json": "response_format", "schema": "response_format",
    "text": "prompt", "question": "prompt",
}  # fmt: skip
_TIERS = {
    "auto": JobClass.NORMAL,
    "default": JobClass.NORMAL,
    "flex": JobClass.BATCH,
    "priority": JobClass.INTERACTIVE,
}
#: Form fields that are text; the text of all others is JSON.
_TEXT_FIELDS = frozenset({"model", "class", "service_tier", "prompt", "system", "stop", "cache"})


@dataclass(frozen=True)
class JobRequest:
    """A valid request for one job or document. In `messages`, image parts count into `uploads` by index."""

    model: str
    job_class: JobClass
    messages: tuple[dict[str, Any], ...]
    uploads: tuple[Upload, ...]
    sampling: dict[str, Any]
    max_tokens: int
    stop: tuple[str, ...]
    response_format: dict[str, Any] | None
    metadata: dict[str, str]
    #: Seconds from submission; None: never.
    expires_in_s: float | None
    #: Where the answer is told while it is made; None: nobody listens.
    channel: str | None = None
    #: A PDF or TIFF among the uploads stands for all its pages in this one prompt, instead of a job a page.
    pages_inline: bool = False
    #: What it wants of answers that are kept; None where it does not say.
    cache: Reuse | None = None


def parse_job(body: object, limits: Limits) -> JobRequest:
    """A request from a decoded JSON body. Raises BadRequest with the dotted path of the field."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object with `model` and `messages`.", code="invalid_type")
    refuse_unknown(body, JOB_FIELDS, hints=HINTS)
    check_plain(body)
    messages = require(body, "messages", 'Send [{"role": "user", "content": "..."}].')
    return _build(body, limits, lambda: parse_messages(messages, limits))


def parse_form(fields: Mapping[str, str], uploads: Sequence[Upload], limits: Limits) -> JobRequest:
    """A request from a multipart body: files, then `prompt`, and the other fields of a job as text.

    The files stand before the prompt in the user's message. Raises BadRequest with the name of the field.
    """
    given: dict[str, object] = {name: text for name, text in fields.items() if text != ""}
    if "file" in given:
        refuse("file", "is a text here. Send it as a file part, with a filename.", "invalid_type")
    refuse_unknown(given, FORM_FIELDS, hints=HINTS)
    for name, text in fields.items():
        check_plain(text, join("", name))
        if name in given and name not in _TEXT_FIELDS:
            given[name] = _decode_field(name, text)
    if isinstance(stop := given.get("stop"), str) and stop.startswith("["):
        given["stop"] = _decode_field("stop", stop)
    check_plain(given)
    return _build(given, limits, lambda: _form_messages(given, uploads, limits))


_Messages = tuple[tuple[dict[str, Any], ...], tuple[Upload, ...]]


def _build(given: Mapping[str, object], limits: Limits, read_messages: Callable[[], _Messages]) -> JobRequest:
    """The fields that both kinds of body share; the messages last, they are the costly part."""
    model = read_text(
        require(given, "model", "GET /v1/models lists what is there."), "model", max_chars=MAX_MODEL_CHARS
    )
    _check_unserved(given)
    settled = {
        "model": model,
        "job_class": _parse_class(given),
        "sampling": sampling.parse_sampling(given),
        "max_tokens": sampling.parse_max_tokens(given, limits),
        "stop": sampling.parse_stop(given.get("stop")),
        "response_format": sampling.parse_response_format(given.get("response_format")),
        "metadata": parse_metadata(given.get("metadata")),
        "expires_in_s": _parse_expires_in(given.get("expires_in")),
        "cache": parse_cache(given.get("cache")),
    }
    messages, uploads = read_messages()
    return JobRequest(**settled, messages=messages, uploads=uploads)  # type: ignore[arg-type]


def _check_unserved(given: Mapping[str, object]) -> None:
    """Fields of OpenAI that a job cannot honour: refused unless they ask for what it does anyway."""
    if given.get("n") is not None and read_int(given["n"], "n", 1, 128) != 1:
        refuse("n", "must be 1: a job has one answer. Submit several jobs for several answers.")
    if given.get("stream") not in (None, False):
        refuse("stream", "is not for jobs: poll GET /v1/jobs/{id}?wait=25. Leave it out.")


def _parse_class(given: Mapping[str, object]) -> JobClass:
    name, tier = given.get("class"), given.get("service_tier")
    if name is not None and tier is not None:
        refuse("service_tier", "means the same as `class`; send one of them.")
    if tier is not None:
        return _TIERS[read_word(tier, "service_tier", _TIERS)]
    return JobClass.NORMAL if name is None else JobClass(read_word(name, "class", list(JobClass)))


def parse_metadata(value: object) -> dict[str, str]:
    """Pairs of texts that come back with what they were sent with. Raises BadRequest."""
    if value is None:
        return {}
    pairs = read_object(value, "metadata")
    if len(pairs) > MAX_PAIRS:
        refuse("metadata", f"has {len(pairs):,} pairs; the limit is {MAX_PAIRS}.")
    for key, text in pairs.items():
        at = join("metadata", key)
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            refuse(at, f"is a key of {len(key):,} characters; a key has from 1 to {MAX_KEY_CHARS}.")
        read_text(text, at, max_chars=MAX_VALUE_CHARS, allow_empty=True)
    return pairs


def _parse_expires_in(value: object) -> float | None:
    return None if value is None else read_number(value, "expires_in", 1.0, MAX_EXPIRES_IN_S)


def _decode_field(name: str, text: str) -> object:
    try:
        return decode_json(text.encode("utf-8"))
    except BadRequest:
        refuse(
            name,
            "is not valid JSON: a number, true, false, an object or a list, as the field needs.",
            "invalid_json",
        )


def _form_messages(given: Mapping[str, object], uploads: Sequence[Upload], limits: Limits) -> _Messages:
    if not uploads:
        refuse("file", "is missing. Send a picture, PDF or TIFF as a file part.", "missing_required_parameter")
    prompt = require(given, "prompt", "Say what to do with the file.")
    text = read_text(prompt, "prompt", max_chars=limits.max_prompt_chars)
    system = given.get("system")
    check_upload_count(len(uploads), uploads[-1].param, limits)
    for upload in uploads:
        if not upload.data:
            refuse_empty(upload.param)
        if upload.filename is not None:
            check_plain(read_text(upload.filename, "filename", max_chars=MAX_FILENAME_CHARS), "filename")
    places = [{"type": "image", "index": index} for index in range(len(uploads))]
    messages: list[dict[str, Any]] = [{"role": "user", "content": [*places, {"type": "text", "text": text}]}]
    if system is not None:
        left = limits.max_prompt_chars - len(text)
        said = read_text(system, "system", max_chars=max(left, 0))
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": said}]})
    return tuple(messages), tuple(uploads)
