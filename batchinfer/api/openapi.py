"""The OpenAPI document: made from the routes' types; the body of a submission is in `submission_schema`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response, jsonify

from batchinfer import __version__
from batchinfer.api import (
    act_schemas,
    batch_item_schemas,
    batch_schemas,
    chat_requests,
    deployment_schemas,
    file_schemas,
    key_schemas,
    revision_schemas,
    run_schemas,
    schedule_schemas,
    template_schemas,
    upload_schemas,
    webhook_schemas,
)
from batchinfer.api.examples import add_examples
from batchinfer.api.submission_schema import EXAMPLES, SCHEMAS

if TYPE_CHECKING:
    from flask_openapi.openapi import OpenAPI

KEY: list[dict[str, list[str]]] = [{"key": []}]
SUBMISSION: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/JobSubmission"},
            "examples": {name: {"value": body} for name, body in EXAMPLES.items()},
        },
        "multipart/form-data": {"schema": {"$ref": "#/components/schemas/FormSubmission"}},
    },
}
_NOUNS = [{"$ref": f"#/components/schemas/{name}"} for name in ("JobBody", "DocumentBody")]
SUBMITTED: dict[str, Any] = {
    "description": "A job, or for a PDF or TIFF a document.",
    "content": {"application/json": {"schema": {"anyOf": _NOUNS}}},
}
UNCHANGED: dict[str, Any] = {"description": "It is as the ETag in `If-None-Match` says; there is no body."}

#: What `flask_openapi.OpenAPI` is made with.
DOCUMENT: dict[str, Any] = {
    "info": {
        "title": "batchinfer",
        "version": __version__,
        "description": "Asynchronous batch inference for vision-language models.",
    },
    "security_schemes": {"key": {"type": "http", "scheme": "bearer", "description": "bi_..."}},
    "validation_error_status": 400,
    "doc_ui": False,
}

#: A header of every route that makes something.
_IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "The same request with the same key answers with what the first one made.",
}


def refusals(*statuses: int) -> dict[str | int, Any]:
    """The errors of a route: those that every route has, and `statuses`."""
    return {status: _error(_MEANINGS[status]) for status in sorted({400, 401, 403, 404, 429, 500, 503, *statuses})}


def register_document(app: OpenAPI) -> None:
    """Serve the document at /openapi.json, to everybody: it holds nothing of anyone."""
    app.openapi_version = "3.1.0"

    @app.route("/openapi.json", endpoint="openapi_document")
    def openapi_document() -> Response:
        return jsonify(make_document(app))


def make_document(app: OpenAPI) -> dict[str, Any]:
    """The document, with the schemas written by hand added to those made from types."""
    document: dict[str, Any] = app.api_doc
    document["components"]["schemas"].update(SCHEMAS | chat_requests.SCHEMAS | act_schemas.SCHEMAS)
    document["components"]["schemas"].update(file_schemas.SCHEMAS | batch_schemas.SCHEMAS | upload_schemas.SCHEMAS)
    document["components"]["schemas"].update(batch_item_schemas.SCHEMAS | webhook_schemas.SCHEMAS | key_schemas.SCHEMAS)
    document["components"]["schemas"].update(run_schemas.SCHEMAS | schedule_schemas.SCHEMAS | template_schemas.SCHEMAS)
    document["components"]["schemas"].update(revision_schemas.SCHEMAS)
    document["components"]["schemas"].update(deployment_schemas.SCHEMAS)
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        if "security" not in operation:  # no key, no parameters: the library's own 400 cannot happen
            operation["responses"].pop("400", None)
        if "description" in operation:  # a docstring's further lines, which the library joins with tags
            operation["description"] = operation["description"].replace("<br/>", " ").strip()
    add_examples(document)
    for path in document["paths"].values():
        if "post" in path and creates(path["post"]):
            parameters = path["post"].setdefault("parameters", [])
            if not any(parameter["name"] == _IDEMPOTENCY_KEY["name"] for parameter in parameters):
                parameters.append(_IDEMPOTENCY_KEY)
    return document


def creates(operation: dict[str, Any]) -> bool:
    """Whether a POST makes a thing: its answers have 422, a key that was used before. All others are as once when they
    come twice."""
    return "422" in operation["responses"]


def _error(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ErrorBody"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


_MEANINGS = {
    400: "The request is wrong; `param` names the field.",
    401: "No key, or one that is unknown, expired or revoked.",
    403: "The key lacks the scope.",
    404: "No such thing for this tenant.",
    409: "The state of the thing does not allow it.",
    413: "The body is over the limit.",
    415: "A kind of file, or of body, that is not served.",
    422: "The idempotency key was used with another request.",
    429: "A limit is reached; send the same request again after `Retry-After` seconds.",
    500: "Our fault; the request id finds it in the log.",
    503: "A part is not there; send the same request again after `Retry-After` seconds.",
    504: "No answer in the time that was waited; the job goes on under `error.job_id`.",
}
