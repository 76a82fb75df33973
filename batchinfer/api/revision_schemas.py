"""The JSON of models' revisions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from batchinfer.api.schemas import ErrorDetail, MaybeTime, Time
from batchinfer.domain.registry import NAME_CHARS, PLACE_CHARS, RevisionState


class RevisionFile(BaseModel):
    """A file of a revision. `sha256` is null until it was read, or where its source says none."""

    name: str
    bytes: int
    sha256: str | None


class ProgressBody(BaseModel):
    """How far a fetch, or a verify, is. `left_s` is null while nothing comes."""

    bytes: int
    total_bytes: int
    bytes_per_s: int
    left_s: int | None
    file: str | None


class RevisionBody(BaseModel):
    """The files of a model under one hash, which is `id`. `progress` is there while they are fetched or read again;
    `error` says what that waits for, or why the revision failed."""

    id: str
    object: Literal["model.revision"] = "model.revision"
    model: str
    status: RevisionState
    source: dict[str, Any]
    bytes: int
    files: list[RevisionFile]
    facts: dict[str, Any] = Field(description="Architecture, context, image limits, chat template, licence and so on.")
    progress: ProgressBody | None
    error: ErrorDetail | None
    created_at: Time
    fetched_at: MaybeTime
    checked_at: MaybeTime = Field(description="When all files were last read and were what they should be.")
    verified_at: MaybeTime
    pruned_at: MaybeTime


class RevisionList(BaseModel):
    """The revisions of a model, newest first."""

    object: Literal["list"] = "list"
    data: list[RevisionBody]


class PrunedBody(BaseModel):
    """A revision with files on the disk. `kept` says why they stay: served, swapped_in, rolled_back_to, loaded, default
    or fetching; null where they go."""

    model: str
    revision: str
    bytes: int
    kept: str | None


class PrunedList(BaseModel):
    """What was taken away, or would be, and what stays. `freed_bytes` is what goes."""

    object: Literal["list"] = "list"
    data: list[PrunedBody]
    freed_bytes: int
    dry_run: bool


def _source(kind: str, place: str, *, revision: bool = False) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "kind": {"const": kind},
        place: {"type": "string", "minLength": 1, "maxLength": PLACE_CHARS},
    }
    if revision:
        properties["revision"] = {"type": ["string", "null"], "maxLength": 200}
    return {"type": "object", "properties": properties, "required": ["kind", place], "additionalProperties": False}


_REGISTER = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": NAME_CHARS, "description": "Jobs ask for it by this."},
        "source": {
            "oneOf": [
                _source("huggingface", "repo", revision=True),
                _source("modelscope", "repo", revision=True),
                _source("bucket", "uri"),
                _source("folder", "path"),
            ]
        },
    },
    "required": ["name", "source"],
}
_NAME = {"type": ["string", "null"], "minLength": 1, "maxLength": NAME_CHARS}
_PRUNE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "model": _NAME,
        "revision": {"type": ["string", "null"], "minLength": 1, "maxLength": 64},
        "dry_run": {"type": ["boolean", "null"], "description": "Only say what would go."},
    },
}


SCHEMAS: dict[str, dict[str, Any]] = {"ModelRegister": _REGISTER, "ModelPrune": _PRUNE}


def _body(name: str, examples: dict[str, Any], *, needed: bool = True) -> dict[str, Any]:
    content = {"schema": {"$ref": f"#/components/schemas/{name}"}}
    shown = {label: {"value": value} for label, value in examples.items()}
    return {"required": needed, "content": {"application/json": {**content, "examples": shown}}}


REGISTER = _body(
    "ModelRegister",
    {
        "of a folder": {"name": "reader", "source": {"kind": "folder", "path": "/data/models/reader"}},
        "of a hub": {"name": "qwen", "source": {"kind": "huggingface", "repo": "Qwen/Qwen2-VL-2B-Instruct"}},
    },
)
PRUNE = _body("ModelPrune", {"say what would go": {"model": "docreader", "dry_run": True}}, needed=False)
