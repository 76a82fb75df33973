"""Files over HTTP, as OpenAI's SDK sends and asks for them."""

from __future__ import annotations

import hashlib
from typing import IO, TYPE_CHECKING

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply
from batchinfer.api.file_schemas import CONTENT, UPLOAD, FileBody, FileDeleted, FileList
from batchinfer.api.idempotency import read_idempotency
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import FilePath, FilesQuery
from batchinfer.api.state import current
from batchinfer.api.submission import FILE as PART
from batchinfer.api.submission import read_form_fields, read_part
from batchinfer.domain.ids import FILE, parse_id, show_id
from batchinfer.domain.userfiles import UserFile, parse_file_form
from batchinfer.observe.clock import to_unix
from batchinfer.services import userfiles

if TYPE_CHECKING:
    from batchinfer.services.context import Idempotency

routes = APIBlueprint(
    "files",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "files"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
#: What a form has beside its file: names, boundaries, headers.
FORM_BYTES = 2**20


@routes.post(
    "/files",
    operation_id="upload_file",
    request_body=UPLOAD,
    responses={200: FileBody, **refusals(409, 413, 415, 422)},
)
def upload_file() -> Response:
    """Keep a file under an id. It may be far larger than any other body: it goes through the disk, never the memory."""
    caller().require("submit")
    read_idempotency("/v1/files", b"")  # a key that is none is refused before the file is read
    request.max_content_length = current().context.settings.max_file_bytes + FORM_BYTES
    name, stream = read_part(PART)
    with stream:
        return _keep_file(name, stream)


def _keep_file(name: str, stream: IO[bytes]) -> Response:
    fields = read_form_fields()
    asked = parse_file_form(fields, name)

    def make_key(sha256: bytes) -> Idempotency | None:
        told = "\0".join([name, *(f"{field}={text}" for field, text in sorted(fields.items()))])
        return read_idempotency("/v1/files", hashlib.sha256(sha256 + told.encode("utf-8", "surrogatepass")).digest())

    file, replayed = userfiles.upload_file(current().context, caller(), asked, stream, make_key)
    response = reply(show_file(file))
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@routes.get("/files", operation_id="list_files", responses={200: FileList})
def list_files(query: FilesQuery) -> Response:
    """Files, newest first unless `order` is asc."""
    page = userfiles.list_files(
        current().context,
        caller(),
        purpose=query.purpose,
        after=read_cursor(FILE, query.after),
        oldest_first=query.order == "asc",
        limit=query.limit,
    )
    return reply(FileList(**show_page(page, show_file)))


@routes.get("/files/<file_id>", operation_id="get_file", responses={200: FileBody})
def get_file(path: FilePath) -> Response:
    """A file: its name, length and purpose."""
    return reply(show_file(userfiles.get_file(current().context, caller(), parse_id(FILE, path.file_id))))


@routes.get("/files/<file_id>/content", operation_id="get_file_content", responses={200: CONTENT})
def get_file_content(path: FilePath) -> Response:
    """The bytes of a file, in pieces from the disk."""
    file, pieces = userfiles.open_file(current().context, caller(), parse_id(FILE, path.file_id))
    response = Response(pieces, mimetype="application/octet-stream")
    response.content_length = file.size_bytes
    response.headers["Content-Disposition"] = "attachment"
    return response


@routes.delete("/files/<file_id>", operation_id="delete_file", responses={200: FileDeleted})
def delete_file(path: FilePath) -> Response:
    """Delete a file. A batch that was made of it goes on."""
    userfiles.delete_file(current().context, caller(), parse_id(FILE, path.file_id))
    return reply(FileDeleted(id=path.file_id, deleted=True))


def show_file(file: UserFile) -> FileBody:
    """A file as OpenAI shows it."""
    return FileBody(
        id=show_id(FILE, file.id),
        bytes=file.size_bytes,
        created_at=int(file.created_at.timestamp()),
        expires_at=to_unix(file.expires_at),
        filename=file.filename,
        purpose=file.purpose,
    )
