"""The JSON of files that come in parts, as OpenAI's SDK types it, and the bodies that make them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from batchinfer.api.file_schemas import FileBody
from batchinfer.api.schemas import Time
from batchinfer.domain.uploads import MAX_PARTS, UploadState
from batchinfer.domain.userfiles import MAX_FILENAME_CHARS, PURPOSES


class UploadBody(BaseModel):
    """A file that comes in parts. `bytes` is its length as said at the beginning, `file` what it was completed into."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: Time
    expires_at: Time
    filename: str
    purpose: str
    status: UploadState
    file: FileBody | None


class UploadPartBody(BaseModel):
    """Some bytes of a file."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: Time
    upload_id: str


_BEGIN = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "filename": {"type": "string", "minLength": 1, "maxLength": MAX_FILENAME_CHARS},
        "bytes": {"type": "integer", "minimum": 1, "description": "Length of the whole file."},
        "purpose": {"enum": list(PURPOSES)},
        "mime_type": {"type": ["string", "null"], "description": "Taken and not believed: the first bytes decide."},
        "expires_after": {"type": ["object", "null"], "description": "As `expires_after` of a file."},
    },
    "required": ["filename", "bytes", "purpose"],
}
_PART = {
    "type": "object",
    "properties": {"data": {"type": "string", "contentMediaType": "application/octet-stream"}},
    "required": ["data"],
}
_COMPLETE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "part_ids": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PARTS},
        "md5": {"type": ["string", "null"], "pattern": "^[0-9a-fA-F]{32}$", "description": "Of the whole file."},
    },
    "required": ["part_ids"],
}


def _body(name: str, media_type: str = "application/json") -> dict[str, Any]:
    return {"required": True, "content": {media_type: {"schema": {"$ref": f"#/components/schemas/{name}"}}}}


BEGIN, COMPLETE = _body("UploadCreate"), _body("UploadComplete")
PART = _body("UploadPart", "multipart/form-data")
SCHEMAS: dict[str, dict[str, Any]] = {"UploadCreate": _BEGIN, "UploadPart": _PART, "UploadComplete": _COMPLETE}
