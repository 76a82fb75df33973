"""The body of POST /v1/jobs as OpenAPI describes it. `domain.prompts` reads it; a test sends the examples."""

from __future__ import annotations

from typing import Any

from batchinfer.domain import messages, prompts, sampling
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.reuse import Reuse


def _optional(schema: dict[str, Any], description: str = "") -> dict[str, Any]:
    """A field that may also be null, which means the same as leaving it out."""
    kinds = schema.pop("type")
    described = {"description": description} if description else {}
    return {"type": [kinds, "null"], **schema, **described}


def _number(low: float, high: float, *, above: bool = False, description: str = "") -> dict[str, Any]:
    return _optional({"type": "number", "exclusiveMinimum" if above else "minimum": low, "maximum": high}, description)


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_TEXT = {"type": "string"}
_DATA_URL = {"type": "string", "pattern": "^data:[^,]*;base64,", "description": "data:image/png;base64,..."}
_ADDRESS = {
    "type": "string",
    "pattern": "^(data:[^,]*;base64,|https?://)",
    "description": "data:image/png;base64,... or, where the operator names its host, an address to fetch.",
}
_TEXT_PART = _object({"type": {"const": "text"}, "text": _TEXT}, ["type", "text"])
_IMAGE_PART = _object(
    {
        "type": {"const": "image_url"},
        "image_url": _object({"url": _ADDRESS, "detail": {"enum": [*messages.DETAILS, None]}}, ["url"]),
    },
    ["type", "image_url"],
)
_SOURCES: dict[str, Any] = {
    "file_data": _DATA_URL,
    "file_id": {"type": "string", "description": "A file of purpose user_data or vision."},
    "file_url": {"type": "string", "pattern": "^https?://", "description": "An address, as of a picture."},
}
_FILE_PART = _object(
    {
        "type": {"const": "file"},
        "file": {
            **_object({"filename": {"type": ["string", "null"]}, **_SOURCES}, []),
            "anyOf": [{"required": [source]} for source in _SOURCES],
        },
    },
    ["type", "file"],
)
_MESSAGE = _object(
    {
        "role": {"enum": list(messages.ROLES)},
        "content": {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": {"anyOf": [_TEXT_PART, _IMAGE_PART, _FILE_PART]}, "minItems": 1},
            ]
        },
    },
    ["role", "content"],
)
_MAX_TOKENS = _optional({"type": "integer", "minimum": 1}, "Most tokens of the answer.")
_FORMAT = {
    "type": ["object", "null"],
    "properties": {"type": {"enum": ["text", "json_object", "json_schema", "regex", "choice"]}},
    "required": ["type"],
    "description": "The form of the answer, as OpenAI writes it; `regex` and `choice` are ours.",
}
_COMMON: dict[str, Any] = {
    "model": {"type": "string", "description": "A name that GET /v1/models lists."},
    "class": _optional({"type": "string"}, f"One of {', '.join(JobClass)}; normal if left out."),
    "service_tier": _optional({"type": "string"}, "OpenAI's word for class: auto, default, flex or priority."),
    "max_tokens": _MAX_TOKENS,
    "max_completion_tokens": {**_MAX_TOKENS, "description": "The same as max_tokens."},
    "temperature": _number(0, 2, description="0, the default, always takes the likeliest token."),
    "top_p": _number(0, 1, above=True),
    "top_k": _optional({"type": "integer", "minimum": 0, "maximum": 1_000_000}, "0, the default, is off."),
    "min_p": _number(0, 1),
    "seed": _optional({"type": "integer", "minimum": 0, "maximum": 2**63 - 1}),
    "repetition_penalty": _number(0, 10, above=True),
    "logprobs": _optional({"type": "boolean"}),
    "stop": {
        "anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": sampling.MAX_STOPS}, {"type": "null"}],
        "description": "Texts that end the answer.",
    },
    "response_format": _FORMAT,
    "metadata": _optional(
        {"type": "object", "additionalProperties": _TEXT, "maxProperties": prompts.MAX_PAIRS},
        "Yours; comes back with the job.",
    ),
    "expires_in": _number(1, prompts.MAX_EXPIRES_IN_S, description="Seconds after which an unfinished job expires."),
    "cache": {
        "enum": [*Reuse, None],
        "description": "Whether an answer that is kept may serve, and this one is kept; off unless set.",
    },
    "n": {"enum": [1, None]},
    "stream": {"enum": [False, None]},
}
_JSON = _object(
    {
        **_COMMON,
        "messages": {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": messages.MAX_MESSAGES},
    },
    ["model", "messages"],
)
_FORM = _object(
    {
        "file": {
            "type": "array",
            "items": {"type": "string", "contentMediaType": "application/octet-stream"},
            "minItems": 1,
            "description": "JPEG, PNG or WebP pictures (repeat the part), or one PDF or TIFF.",
        },
        "prompt": {"type": "string", "description": "What to do with the file."},
        "system": {"type": "string"},
        **_COMMON,
    },
    ["model", "file", "prompt"],
)
#: A transparent PNG of one pixel.
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA"
    "AABJRU5ErkJggg=="
)
EXAMPLES: dict[str, dict[str, Any]] = {
    "a question": {"model": "docreader", "messages": [{"role": "user", "content": "What can you do?"}]},
    "a picture": {
        "model": "docreader",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": _PIXEL}},
                    {"type": "text", "text": "Read this page."},
                ],
            }
        ],
        "max_tokens": 256,
        "metadata": {"folder": "inbox"},
    },
}
SCHEMAS: dict[str, dict[str, Any]] = {"JobSubmission": _JSON, "FormSubmission": _FORM}
