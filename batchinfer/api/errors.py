"""The one writer of errors. Its body serves two readers: OpenAI's SDK (`error`) and RFC 9457 (the rest).

    {"error": {"message", "type", "param", "code"},
     "type", "title", "status", "detail", "instance", "request_id"}

`x-should-retry` says whether the same request may pass later; `Retry-After` when, and never more than 120 s,
above which OpenAI's SDK would not retry at all.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Response, current_app, g, request
from flask.json import dumps
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from batchinfer.api.state import current
from batchinfer.errors import (
    BadRequest,
    BatchinferError,
    Busy,
    InFlight,
    Internal,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from batchinfer.observe.logs import get_logger

if TYPE_CHECKING:
    from flask import Flask

log = get_logger(__name__)
#: Seconds to wait where the error itself does not say.
_RETRY_AFTER_S: dict[type[BatchinferError], int] = {InFlight: 1, Busy: 5, Unavailable: 5}


def register_errors(app: Flask) -> None:
    """Send every error of the application through `write_error`."""
    app.register_error_handler(BatchinferError, _on_ours)
    app.register_error_handler(HTTPException, _on_http)
    app.register_error_handler(Exception, _on_unexpected)


def write_error(error: BatchinferError) -> Response:
    """The answer for an error: status, union body, and the headers that steer a retry."""
    title = HTTPStatus(error.status).phrase
    body: dict[str, Any] = {
        "error": error.as_dict(),
        "type": f"urn:batchinfer:error:{error.code}",
        "title": title,
        "status": error.status,
        "detail": error.message,
        "instance": request.path,
        "request_id": g.get("request_id"),
    }
    response = Response(dumps(body, sort_keys=False) + "\n", error.status, mimetype="application/problem+json")
    response.headers["x-should-retry"] = "true" if error.retry_helps else "false"
    wait_s = error.retry_after_s or _RETRY_AFTER_S.get(type(error))
    if error.retry_helps and wait_s:
        response.headers["Retry-After"] = str(min(wait_s, 120))
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = 'Bearer realm="batchinfer"'
    return response


def _on_ours(error: BatchinferError) -> Response:
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("answered an error", code=error.code, exc_info=error)
    return write_error(error)


def _on_unexpected(error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return write_error(Internal(f"Something broke on our side. The log has it under request id {g.get('request_id')}."))


def _on_http(error: HTTPException) -> Response:
    """Flask's and Werkzeug's own errors, in our words; a redirect passes as it is."""
    if error.response is not None or (error.code or 500) < HTTPStatus.BAD_REQUEST:
        return error.get_response()  # type: ignore[return-value]
    response = write_error(_translate(error))
    if allowed := getattr(error, "valid_methods", None):
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _translate(error: HTTPException) -> BatchinferError:
    if isinstance(error, RequestEntityTooLarge):
        return _too_large()
    match error.code:
        case 404:
            return NotFound("No such path. GET /openapi.json lists all of them.", code="path_not_found")
        case 405:
            return MethodNotAllowed(f"{request.path} does not take {request.method}. See the header Allow.")
        case 415:
            return Unsupported("This content type is not served here.", code="unsupported_content_type")
        case code if code is not None and code < HTTPStatus.INTERNAL_SERVER_ERROR:
            return BadRequest("The request could not be read. Check its headers and its body.")
    return Internal(f"Something broke on our side. The log has it under request id {g.get('request_id')}.")


def _too_large() -> TooLarge:
    """The body, or of a smaller body the fields of a form."""
    limit = request.max_content_length or current().limits.max_body_bytes
    if request.content_length is not None and request.content_length <= limit:
        fields = current_app.config["MAX_FORM_MEMORY_SIZE"]
        parts = current_app.config["MAX_FORM_PARTS"]
        return TooLarge(
            f"The form has over {parts:,} parts or a text over {fields:,} bytes. Send files as file parts.",
            code="form_too_large",
        )
    return TooLarge(f"The body is over the limit of {limit:,} bytes. Send less in one request, or smaller pictures.")
