"""The body of a submission: JSON or a form, read whole and handed to the parsers of the domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        raw = request.get_data(cache=False)
        if request.content_length is None and len(raw) >= limits.max_body_bytes:
            raise RequestEntityTooLarge  # Werkzeug ends a chunked body at the limit, without a word
        idempotency = read_idempotency(route, hash_body(raw))
        return parse_job(decode_json(raw), limits), idempotency
    if request.mimetype == "multipart/form-data":
        fields, uploads = _read_form()
        idempotency = read_idempotency(route, hash_form(fields, uploads))
        return parse_form(fields, uploads, limits), idempotency
    raise Unsupported(
        "Send a job as `Content-Type: application/json`, or a file and a prompt as `multipart/form-data`.",
        code="unsupported_content_type",
        param="Content-Type",
    )


def _read_form() -> tuple[dict[str, str], list[Upload]]:
    if not request.mimetype_params.get("boundary"):
        raise BadRequest(
            "The header Content-Type has no boundary. Let your HTTP library set it.",
            code="invalid_form",
            param="Content-Type",
        )
    refuse_unknown(request.files, {FILE})
    fields = {}
    for name, texts in request.form.lists():
        if len(texts) > 1:
            refuse(name, "came more than once. Send it once.")
        fields[name] = texts[0]
    return fields, [_read_file(file) for file in request.files.getlist(FILE)]


def _read_file(file: FileStorage) -> Upload:
    """The bytes, which lay on disk where they were many, and the last part of the name they came with."""
    name = (file.filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    return Upload(file.stream.read(), name or None, FILE)
