"""The JSON of files, as OpenAI's SDK types it, and the form of an upload."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from batchinfer.api.schemas import MaybeTime, Time
from batchinfer.domain.userfiles import LEAST_EXPIRY_S, LONGEST_EXPIRY_S, PURPOSES


class FileBody(BaseModel):
    """A file. `bytes` is its length; `purpose` is batch, vision, user_data or batch_output."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: Time
    expires_at: MaybeTime
    filename: str
    purpose: str
    #: There is nothing to wait for: what is listed can be used.
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """A file that is deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool


_BYTES = {"type": "string", "contentMediaType": "application/octet-stream"}
_UPLOAD = {
    "type": "object",
    "properties": {
        "file": {**_BYTES, "description": "The file."},
        "purpose": {"enum": list(PURPOSES)},
        "expires_after[anchor]": {"const": "created_at"},
        "expires_after[seconds]": {"type": "integer", "minimum": LEAST_EXPIRY_S, "maximum": LONGEST_EXPIRY_S},
    },
    "required": ["file", "purpose"],
}
UPLOAD: dict[str, Any] = {
    "required": True,
    "content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/FileUpload"}}},
}
CONTENT: dict[str, Any] = {
    "description": "The bytes of the file, as they are.",
    "content": {"application/octet-stream": {"schema": _BYTES}},
}
SCHEMAS: dict[str, dict[str, Any]] = {"FileUpload": _UPLOAD}
