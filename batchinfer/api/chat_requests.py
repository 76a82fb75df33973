"""The bodies of chat completions and responses as OpenAPI describes them. `domain.chat` and `domain.responses` read
them; a test sends the examples."""

from __future__ import annotations

from typing import Any

from batchinfer.api.chat_schemas import ChatCompletion
from batchinfer.api.submission_schema import SCHEMAS as JOB_SCHEMAS

_REFERENCE = "#/components/schemas/{model}"
_FLAG: dict[str, Any] = {"type": ["boolean", "null"]}
#: Members that are not listed are ignored, unless they change the answer.
_OPEN: dict[str, Any] = {"type": "object", "additionalProperties": True}
_JOB: dict[str, Any] = JOB_SCHEMAS["JobSubmission"]["properties"]
_CHAT = {
    **_OPEN,
    "properties": {
        **{name: schema for name, schema in _JOB.items() if name != "stream"},
        "messages": {"type": "array", "items": _OPEN, "minItems": 1, "description": "As OpenAI writes them."},
        "stream": {**_FLAG, "description": "Tell the text as it is made, as server-sent events."},
        "stream_options": {"type": ["object", "null"], "properties": {"include_usage": _FLAG}},
    },
    "required": ["model", "messages"],
}
_SAME = (
    "model", "temperature", "top_p", "metadata", "class", "service_tier", "expires_in", "seed", "top_k", "min_p",
    "repetition_penalty", "stop", "cache",
)  # fmt: skip
_RESPONSE = {
    **_OPEN,
    "properties": {
        **{name: _JOB[name] for name in _SAME},
        "input": {
            "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": _OPEN, "minItems": 1}],
            "description": "A text, or messages with parts input_text, input_image and input_file.",
        },
        "instructions": {"type": ["string", "null"], "description": "A system message before the input."},
        "max_output_tokens": _JOB["max_tokens"],
        "text": {
            "type": ["object", "null"],
            "properties": {"format": {"type": ["object", "null"]}},
            "description": "`format`: text, json_object, or json_schema with name and schema.",
        },
        "background": {**_FLAG, "description": "Answer at once, as queued; poll GET /v1/responses/{id}."},
    },
    "required": ["model", "input"],
}
CHAT_EXAMPLES: dict[str, dict[str, Any]] = {
    "a question": {"model": "docreader", "messages": [{"role": "user", "content": "What can you do?"}], "seed": 7},
}
RESPONSE_EXAMPLES: dict[str, dict[str, Any]] = {
    "in the background": {"model": "docreader", "input": "What can you do?", "background": True},
}


def _request(name: str, examples: dict[str, dict[str, Any]]) -> dict[str, Any]:
    content = {
        "schema": {"$ref": _REFERENCE.format(model=name)},
        "examples": {title: {"value": body} for title, body in examples.items()},
    }
    return {"required": True, "content": {"application/json": content}}


CHAT = _request("ChatRequest", CHAT_EXAMPLES)
RESPONSE_REQUEST = _request("ResponseRequest", RESPONSE_EXAMPLES)
COMPLETED: dict[str, Any] = {
    "description": "The answer; with `stream` its chunks as server-sent events, the last one `[DONE]`.",
    "content": {
        "application/json": {"schema": {"$ref": _REFERENCE.format(model="ChatCompletion")}},
        "text/event-stream": {"schema": {"type": "string"}},
    },
}
_COMPLETION = ChatCompletion.model_json_schema(mode="serialization", ref_template=_REFERENCE)
SCHEMAS: dict[str, dict[str, Any]] = {
    "ChatRequest": _CHAT,
    "ResponseRequest": _RESPONSE,
    **_COMPLETION.pop("$defs"),
    "ChatCompletion": _COMPLETION,
}
