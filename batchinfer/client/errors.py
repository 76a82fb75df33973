"""The service's error body as the error of `batchinfer.errors` that it was on the other side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.errors import (
    BadRequest,
    BatchinferError,
    Busy,
    Conflict,
    Forbidden,
    InFlight,
    Internal,
    KeyReused,
    MethodNotAllowed,
    NotFound,
    Overrun,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

if TYPE_CHECKING:
    import httpx

_KINDS = (
    BadRequest, Unauthenticated, Forbidden, NotFound, MethodNotAllowed, Conflict, TooLarge, Unsupported, KeyReused,
    Busy, Internal, Unavailable, Overrun,
)  # fmt: skip
_BY_STATUS: dict[int, type[BatchinferError]] = {kind.status: kind for kind in _KINDS}


def read_error(response: httpx.Response) -> BatchinferError:
    """The error of an answer of 400 or above whose body was read. What is no body of ours, a proxy's page for example,
    becomes the nearest error without its text."""
    told = _read_body(response)
    kind = _BY_STATUS.get(response.status_code, Internal if response.status_code >= 500 else BadRequest)
    code = told.get("code")
    if code == InFlight.default_code:
        kind = InFlight
    message = told.get("message")
    if not isinstance(message, str) or not message:
        message = f"The answer was status {response.status_code} without a word. Is the address that of the service?"
    error = kind(
        message,
        code=code if isinstance(code, str) else None,
        param=told["param"] if isinstance(told.get("param"), str) else None,
        retry_after_s=read_retry_after(response),
    )
    error.job_id = told["job_id"] if isinstance(told.get("job_id"), str) else None
    error.request_id = response.headers.get("x-request-id")
    return error


def read_retry_after(response: httpx.Response) -> int | None:
    """The header's whole seconds. A date, which proxies may send, says nothing here."""
    text = response.headers.get("Retry-After", "")
    return int(text) if text.isdecimal() and len(text) < 10 else None


def _read_body(response: httpx.Response) -> dict[str, Any]:
    try:
        told = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return told if isinstance(told, dict) else {}
