"""Files that come in parts, as OpenAI's Uploads API names them: begun, filled part by part, completed into a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from batchinfer.domain.fields import (
    check_plain,
    join,
    read_int,
    read_list,
    read_object,
    read_text,
    refuse,
    refuse_unknown,
    require,
)
from batchinfer.domain.userfiles import FileRequest, parse_file_facts

#: Most parts of a file: 8 GiB in parts of 64 MiB are 128.
MAX_PARTS = 10_000
_FIELDS = ("filename", "bytes", "purpose", "mime_type", "expires_after")
_MD5 = re.compile(r"[0-9a-fA-F]{32}")


class UploadState(StrEnum):
    """Where an upload is, word for word as OpenAI's SDK types it. Only a pending one takes parts."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    #: Its time passed before it was completed.
    EXPIRED = "expired"


@dataclass(frozen=True)
class UserUpload:
    """A file that comes in parts, as its owner sees it. Times are aware UTC."""

    id: UUID
    tenant_id: UUID
    filename: str
    purpose: str
    #: Of the whole file, as said when it was begun.
    size_bytes: int
    status: UploadState
    created_at: datetime
    expires_at: datetime
    #: Once it is completed.
    file_id: UUID | None
    #: Seconds that the file is kept from its making; None: until it is deleted.
    file_expires_s: int | None


@dataclass(frozen=True)
class UserPart:
    """Some bytes of a file. The order of parts is said when the upload is completed."""

    id: UUID
    upload_id: UUID
    size_bytes: int
    #: SHA-256, hexadecimal.
    blob: str
    created_at: datetime


@dataclass(frozen=True)
class UploadRequest:
    """What a user says of a file before its parts come."""

    file: FileRequest
    size_bytes: int


@dataclass(frozen=True)
class Completion:
    """How a file is put together: the ids of its parts in order, as users see them, and its MD5 in lower case."""

    part_ids: tuple[str, ...]
    md5: str | None


def parse_upload(body: object, *, max_bytes: int) -> UploadRequest:
    """A request from a decoded JSON body; what `mime_type` says is not believed. Raises BadRequest with the field."""
    given = read_object(body, "body")
    refuse_unknown(given, _FIELDS)
    check_plain(given)
    name = require(given, "filename", "Say what the file is called.")
    size_bytes = read_int(require(given, "bytes", "Say how long the whole file is."), "bytes", 1, max_bytes)
    if given.get("mime_type") is not None:
        read_text(given["mime_type"], "mime_type", max_chars=255, allow_empty=True)
    return UploadRequest(parse_file_facts(name, given.get("purpose"), given.get("expires_after")), size_bytes)


def parse_completion(body: object) -> Completion:
    """A request from a decoded JSON body. Raises BadRequest with the field."""
    given = read_object(body, "body")
    refuse_unknown(given, ("part_ids", "md5"))
    check_plain(given)
    named = read_list(require(given, "part_ids", "Name the parts in the order of the file."), "part_ids")
    if not 1 <= len(named) <= MAX_PARTS:
        refuse("part_ids", f"must have from 1 to {MAX_PARTS:,} entries.")
    part_ids = tuple(read_text(part, join("part_ids", i), max_chars=64) for i, part in enumerate(named))
    md5 = given.get("md5")
    if md5 is not None and not (isinstance(md5, str) and _MD5.fullmatch(md5)):
        refuse("md5", "must be 32 hexadecimal digits.")
    return Completion(part_ids, md5.lower() if md5 else None)
