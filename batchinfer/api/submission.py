"""The body of a submission: JSON or a form, read whole and handed to the parsers of the domain."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge

from batchinfer.api.idempotency import hash_body, hash_form, read_idempotency
from batchinfer.api.state import current
from batchinfer.domain.fields import decode_json, refuse, refuse_unknown
from batchinfer.domain.prompts import Upload, parse_form, parse_job
from batchinfer.errors import BadRequest, Unsupported

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage

    from batchinfer.domain.prompts import JobRequest
    from batchinfer.services.context import Idempotency

#: The one name of file parts; further files repeat it.
FILE = "file"


def read_submission(route: str) -> tuple[JobRequest, Idempotency | None]:
    """What is asked for, and the idempotency key with its hash. Raises BadRequest and Unsupported."""
    limits = current().limits
    if request.mimetype == "application/json":
        body, idempotency = read_json(route)
        return parse_job(body, limits), idempotency
    if request.mimetype == "multipart/form-data":
        fields, uploads = _read_form()
        idempotency = read_idempotency(route, hash_form(fields, uploads))
        return parse_form(fields, uploads, limits), idempotency
    raise Unsupported(
        "Send a job as `Content-Type: application/json`, or a file and a prompt as `multipart/form-data`.",
        code="unsupported_content_type",
        param="Content-Type",
    )


def read_json(route: str) -> tuple[object, Idempotency | None]:
    """The decoded body, and the idempotency key with its hash. Raises BadRequest and Unsupported."""
    if request.mimetype != "application/json":
        raise Unsupported(
            "Send the request as `Content-Type: application/json`.",
            code="unsupported_content_type",
            param="Content-Type",
        )
    raw = request.get_data(cache=False)
    if request.content_length is None and len(raw) >= current().limits.max_body_bytes:
        raise RequestEntityTooLarge  # Werkzeug ends a chunked body at the limit, without a word
    idempotency = read_idempotency(route, hash_body(raw))
    return decode_json(raw), idempotency


def read_optional_json(route: str) -> tuple[object, Idempotency | None]:
    """The same where the body may be left out: then it is an empty object."""
    if not request.content_length and "Transfer-Encoding" not in request.headers:
        return {}, read_idempotency(route, hash_body(b""))
    return read_json(route)


def read_body() -> object:
    """The decoded body; none at all is an empty object. Raises BadRequest."""
    raw = request.get_data(cache=False)
    if request.content_length is None and len(raw) >= current().limits.max_body_bytes:
        raise RequestEntityTooLarge
    return decode_json(raw) if raw else {}


def _read_form() -> tuple[dict[str, str], list[Upload]]:
    refuse_no_boundary()
    refuse_unknown(request.files, {FILE})
    return read_form_fields(), [_read_file(file) for file in request.files.getlist(FILE)]


def refuse_no_boundary() -> None:
    """Go on only if the parts of a form can be told apart. Raises BadRequest."""
    if not request.mimetype_params.get("boundary"):
        raise BadRequest(
            "The header Content-Type has no boundary. Let your HTTP library set it.",
            code="invalid_form",
            param="Content-Type",
        )


def read_form_fields() -> dict[str, str]:
    """The texts of a form. Raises BadRequest for one that came more than once."""
    fields = {}
    for name, texts in request.form.lists():
        if len(texts) > 1:
            refuse(name, "came more than once. Send it once.")
        fields[name] = texts[0]
    return fields


def read_part(field: str) -> tuple[str, IO[bytes]]:
    """The only file of a form: the last part of its name, and its bytes, on disk where they are many.

    Raises BadRequest and Unsupported.
    """
    if request.mimetype != "multipart/form-data":
        raise Unsupported(
            f"Send the bytes as a part `{field}` of a multipart form.",
            code="unsupported_content_type",
            param="Content-Type",
        )
    refuse_no_boundary()
    parts = request.files.getlist(field)
    if len(parts) != 1 or len(request.files) != 1:
        refuse(field, "must be there once, as a file part with a filename.", "missing_required_parameter")
    return _find_name(parts[0]) or "upload", parts[0].stream


def _find_name(file: FileStorage) -> str:
    """The last part of the name that a file came with."""
    return (file.filename or "").replace("\\", "/").rsplit("/", 1)[-1]


def _read_file(file: FileStorage) -> Upload:
    """The bytes, which lay on disk where they were many, and the last part of the name they came with."""
    return Upload(file.stream.read(), _find_name(file) or None, FILE)
