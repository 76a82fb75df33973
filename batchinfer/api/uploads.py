"""Files that come in parts over HTTP, as OpenAI's SDK sends them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply
from batchinfer.api.files import FORM_BYTES, show_file
from batchinfer.api.idempotency import read_idempotency
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import UploadPath
from batchinfer.api.state import current
from batchinfer.api.submission import read_form_fields, read_json, read_part
from batchinfer.api.upload_schemas import BEGIN, COMPLETE, PART, UploadBody, UploadPartBody
from batchinfer.domain.fields import refuse_unknown
from batchinfer.domain.ids import UPLOAD, UPLOAD_PART, parse_id, show_id
from batchinfer.domain.uploads import UserUpload, parse_completion, parse_upload
from batchinfer.services import uploads

if TYPE_CHECKING:
    from batchinfer.services.context import Idempotency

routes = APIBlueprint(
    "uploads",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "files"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
#: What `Idempotency-Key` counts for: the id of the upload is part of the request's hash.
_PARTS = "/v1/uploads/{upload_id}/parts"


@routes.post(
    "/uploads",
    operation_id="create_upload",
    request_body=BEGIN,
    responses={200: UploadBody, **refusals(409, 413, 415, 422)},
)
def create_upload() -> Response:
    """Begin a file that comes in parts. Its time is an hour unless the settings say otherwise."""
    caller().require("submit")
    body, idempotency = read_json("/v1/uploads")
    asked = parse_upload(body, max_bytes=current().context.settings.max_upload_bytes)
    upload, replayed = uploads.begin_upload(current().context, caller(), asked, idempotency)
    return _replay(reply(_show(upload)), replayed=replayed)


@routes.post(
    "/uploads/<upload_id>/parts",
    operation_id="add_upload_part",
    request_body=PART,
    responses={200: UploadPartBody, **refusals(409, 413, 415, 422)},
)
def add_upload_part(path: UploadPath) -> Response:
    """Keep some bytes of a file; parts may come in any order, and at once."""
    caller().require("submit")
    read_idempotency(_PARTS, b"")  # a key that is none is refused before the part is read
    upload_id = parse_id(UPLOAD, path.upload_id)
    uploads.find_own(current().context, caller(), upload_id)
    request.max_content_length = current().context.settings.max_part_bytes + FORM_BYTES
    _, stream = read_part("data")
    with stream:
        refuse_unknown(read_form_fields(), {"data"})

        def make_key(sha256: bytes) -> Idempotency | None:
            return read_idempotency(_PARTS, hashlib.sha256(upload_id.bytes + sha256).digest())

        part, replayed = uploads.add_part(current().context, caller(), upload_id, stream, make_key)
    body = UploadPartBody(
        id=show_id(UPLOAD_PART, part.id), created_at=int(part.created_at.timestamp()), upload_id=path.upload_id
    )
    return _replay(reply(body), replayed=replayed)


@routes.post(
    "/uploads/<upload_id>/complete",
    operation_id="complete_upload",
    request_body=COMPLETE,
    responses={200: UploadBody, **refusals(413, 415)},
)
def complete_upload(path: UploadPath) -> Response:
    """Make a file of the parts, in the order of `part_ids`. Twice is as once."""
    caller().require("submit")
    upload_id = parse_id(UPLOAD, path.upload_id)
    uploads.find_own(current().context, caller(), upload_id)
    asked = parse_completion(read_json("/v1/uploads/{upload_id}/complete")[0])
    return reply(_show(uploads.complete_upload(current().context, caller(), upload_id, asked)))


@routes.post("/uploads/<upload_id>/cancel", operation_id="cancel_upload", responses={200: UploadBody})
def cancel_upload(path: UploadPath) -> Response:
    """Take no more parts. Twice is as once; 400 where it was completed or its time is over."""
    return reply(_show(uploads.cancel_upload(current().context, caller(), parse_id(UPLOAD, path.upload_id))))


def _replay(response: Response, *, replayed: bool) -> Response:
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def _show(upload: UserUpload) -> UploadBody:
    """An upload as OpenAI shows it."""
    file = uploads.find_made_file(current().context, caller(), upload)
    return UploadBody(
        id=show_id(UPLOAD, upload.id),
        bytes=upload.size_bytes,
        created_at=int(upload.created_at.timestamp()),
        expires_at=int(upload.expires_at.timestamp()),
        filename=upload.filename,
        purpose=upload.purpose,
        status=upload.status,
        file=show_file(file) if file else None,
    )
