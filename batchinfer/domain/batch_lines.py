"""A line of a batch's input file, and what is wrong with one. Shapes and codes as OpenAI's Batch guide has them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batchinfer.domain.batches import MAX_CUSTOM_ID_CHARS, NATIVE
from batchinfer.domain.chat import open_class, parse_chat
from batchinfer.domain.fields import check_text, decode_json, read_object, read_text, refuse, require
from batchinfer.domain.prompts import parse_job
from batchinfer.domain.responses import parse_response
from batchinfer.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from batchinfer.domain.jobs import JobClass
    from batchinfer.domain.limits import Limits
    from batchinfer.domain.prompts import JobRequest


@dataclass(frozen=True)
class Line:
    """A valid line; `number` is its place in the file, from 1, blank lines counted."""

    number: int
    custom_id: str
    job: JobRequest


def parse_line(raw: bytes, number: int, *, endpoint: str, limits: Limits, job_class: JobClass) -> Line:
    """A line of the file. `job_class` is taken where its body names none. Raises BadRequest, BadImage."""
    try:
        line = decode_json(raw)
    except BadRequest as error:
        raise BadRequest(error.message.replace("The body", "The line"), code="invalid_json_line") from None
    if not isinstance(line, dict):
        raise BadRequest("The line is no JSON object.", code="invalid_json_line")
    if endpoint == NATIVE:
        return _parse_native(line, number, limits, job_class)
    custom_id = read_custom_id(line)
    if line.get("method") != "POST":
        refuse("method", "must be POST.", "invalid_method")
    if line.get("url") != endpoint:
        refuse("url", f"must be {endpoint}, the endpoint of the batch.", "mismatched_endpoint")
    body = read_object(require(line, "body", "Send the body of the request."), "body")
    if body.get("stream") not in (None, False) or body.get("background") not in (None, False, True):
        refuse("body.stream", "is not for batches. Leave it out.", "unsupported_parameter")
    try:
        if endpoint == "/v1/responses":
            job = parse_response(body, limits, job_class=job_class).job
        else:
            job = parse_chat(body, limits, job_class=job_class).job
    except (BadRequest, NotFound) as error:
        raise type(error)(error.message, code=error.code, param=show_field(endpoint, error.param)) from None
    return Line(number, custom_id, job)


def _parse_native(line: dict[str, Any], number: int, limits: Limits, job_class: JobClass) -> Line:
    """The fields of a job and its name on one level; a PDF or TIFF stands for its pages in this one prompt."""
    body = {name: value for name, value in line.items() if name != "custom_id"}
    custom_id = _name_line(number) if line.get("custom_id") is None else read_custom_id(line)
    job = parse_job(open_class(body, job_class), limits)
    return Line(number, custom_id, replace(job, pages_inline=True))


def _name_line(number: int) -> str:
    return f"line-{number}"


def show_field(endpoint: str, param: str | None) -> str | None:
    """The path of a field of a request as one of its line."""
    if endpoint == NATIVE:
        return param
    return f"body.{param}" if param else "body"


def read_custom_id(line: dict[str, Any]) -> str:
    """The user's name of a line: 1 to 256 characters, none of them a control character. Raises BadRequest."""
    given = require(line, "custom_id", "Give each line a name of its own.")
    custom_id = read_text(given, "custom_id", max_chars=MAX_CUSTOM_ID_CHARS)
    check_text(custom_id, "custom_id")
    if any(ord(char) < 32 or ord(char) == 127 for char in custom_id):
        refuse("custom_id", "holds a control character. Remove it.", "invalid_characters")
    return custom_id


def find_custom_id(raw: bytes, number: int) -> str:
    """The custom id of a line that was found valid before."""
    given = json.loads(raw).get("custom_id")
    return _name_line(number) if given is None else str(given)
