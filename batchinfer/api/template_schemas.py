"""The JSON of prompt templates."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from batchinfer.api.run_schemas import make_body
from batchinfer.api.schemas import Time
from batchinfer.domain.templates import MAX_TRIED


class TemplateVersionBody(BaseModel):
    """A text of a template; it never changes."""

    version: int
    prompt: str
    system: str | None
    response_format: dict[str, Any] | None
    note: str | None
    created_at: Time


class TemplateHead(BaseModel):
    """A template in a list. `version` is the newest."""

    id: str
    object: Literal["template"] = "template"
    name: str
    version: int
    created_at: Time
    updated_at: Time


class TemplateBody(TemplateHead):
    """A template with its versions, newest first, at most 1,000."""

    versions: list[TemplateVersionBody]


class AppliedTemplate(TemplateBody):
    """A template, and what applying did."""

    applied: Literal["created", "changed", "unchanged"] = Field(description="changed: a version was added.")


class TemplateList(BaseModel):
    """A page of templates."""

    object: Literal["list"] = "list"
    data: list[TemplateHead]
    first_id: str | None
    last_id: str | None
    has_more: bool


class TemplateDeleted(BaseModel):
    """A template that is deleted."""

    id: str
    object: Literal["template.deleted"] = "template.deleted"
    deleted: Literal[True] = True


_TEXT: dict[str, Any] = {
    "prompt": {"type": "string", "description": "With variables of file and page: {{ filename }}, {{ page }}."},
    "system": {"type": ["string", "null"]},
    "response_format": {"type": ["object", "null"], "description": "As that of a job."},
    "note": {"type": ["string", "null"], "description": "Why there is this version."},
}
_TRY: dict[str, Any] = {
    "model": {"type": "string"},
    "files": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_TRIED},
    "version": {"type": ["integer", "null"], "description": "The newest where it is left out."},
    "pages": {"type": "integer", "minimum": 1, "maximum": MAX_TRIED, "description": "Of all files together."},
    "render": {"type": ["object", "null"], "description": "As `pipeline.render` of a run."},
    "generation": {"type": ["object", "null"], "description": "As `pipeline.generation` of a run."},
}
_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": False}
CREATE, VERSION, TRY = make_body("TemplateCreate"), make_body("TemplateVersionCreate"), make_body("TemplateTry")
SCHEMAS: dict[str, dict[str, Any]] = {
    "TemplateCreate": {
        **_OBJECT,
        "properties": {"name": {"type": "string", "maxLength": 64}, **_TEXT},
        "required": ["name", "prompt"],
    },
    "TemplateVersionCreate": {**_OBJECT, "properties": _TEXT, "required": ["prompt"]},
    "TemplateTry": {**_OBJECT, "properties": _TRY, "required": ["model", "files"]},
}
