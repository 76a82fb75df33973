"""The server that answers for us: its address and key, what it says that it serves, and what its refusals mean."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from workers.engine.protocol import EngineFailure, ModelError

_log = logging.getLogger(__name__)

#: Between two looks whether a server that starts is there, and the most that its list of models may be, in bytes.
_LOOK_S = 0.25
MOST_LISTED = 4 * 2**20
#: Of a server's refusal in our log, in characters.
_QUOTED = 300
_CODE = re.compile(r"[a-z][a-z0-9_]{1,63}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")
#: Codes of ours that another server of ours answers with, and whether another try may help; kept as they are.
_KEPT_CODES = {
    "context_length_exceeded": False,
    "invalid_response_format": False,
    "unsupported_response_format": False,
    "output_repeats": False,
    "grammar_limit": False,
    "invalid_output": True,
}
_TOO_LONG = re.compile(r"context length|context window|max_model_len|maximum context|too many tokens", re.IGNORECASE)


class UpstreamError(Exception):
    """Why a request got no answer. `gone` says that the server could not be reached at all, `busy` that it has too
    much to do."""

    def __init__(self, failure: EngineFailure, *, gone: bool = False, busy: bool = False) -> None:
        super().__init__(failure.message)
        self.failure, self.gone, self.busy = failure, gone, busy


@dataclass(frozen=True)
class Upstream:
    """`base` ends in /v1. The key is never shown."""

    base: str
    model: str
    key: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        plain = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        return plain | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    @property
    def root(self) -> str:
        """The address without /v1."""
        return self.base.removesuffix("/v1")


@dataclass(frozen=True)
class Served:
    """What the server says of the model: names under which it may answer, and its context in tokens, if told."""

    names: frozenset[str]
    context_tokens: int | None = None
    #: Of the server's program, where it says it.
    version: str | None = None


def read_address(url: str) -> str:
    """The address of a server, ending in /v1. Raises ModelError."""
    parts = urlsplit(url.strip())
    try:
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or parts.username or parts.password or parts.query or parts.fragment:
        raise ModelError(
            "upstream_address", "The option url must be http:// or https:// with a host, without user name or query."
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"


def read_key(name: str | None) -> str | None:
    """The key in the environment variable `name`, which is all that is ever stored of it. Raises ModelError."""
    if not name:
        return None
    key = os.environ.get(name, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ModelError(
            "upstream_key_missing",
            f"The option key_env names {name}, which holds no key where the worker runs; set it.",
        )
    return key


def find_served(upstream: Upstream, *, wait_s: float, timeout_s: float, version_at: str = "") -> Served:
    """Ask the server what it serves, for `wait_s` seconds where it is not there yet; and at the path `version_at` which
    version it is.

    Raises ModelError: it cannot be reached, refuses the key, does not speak the protocol, or lacks the model.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            served = _ask(upstream, timeout_s)
            return replace(served, version=_find_version(upstream, version_at, timeout_s) if version_at else None)
        except ModelError as error:
            if error.code != "upstream_unreachable" or time.monotonic() >= until:
                raise
        time.sleep(_LOOK_S)


def _ask(upstream: Upstream, timeout_s: float) -> Served:
    import httpx

    try:
        with httpx.Client(headers=upstream.headers, timeout=timeout_s, trust_env=False) as client:
            response = client.get(f"{upstream.base}/models")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise ModelError(
            "upstream_unreachable",
            f"The server at {upstream.root} cannot be reached ({type(error).__name__}); start it, or correct the url.",
        ) from None
    if response.status_code in (401, 403):
        raise ModelError("upstream_key_refused", f"The server at {upstream.root} refuses the key; correct key_env.")
    if response.status_code in (429, 502, 503, 504):
        raise ModelError("upstream_unreachable", f"The server at {upstream.root} is not ready; wait for it.")
    try:
        listed = response.json()["data"] if response.is_success and len(response.content) <= MOST_LISTED else None
    except (ValueError, KeyError, TypeError, RecursionError):
        listed = None
    if not isinstance(listed, list):
        raise ModelError(
            "upstream_garbled",
            f"What answers at {upstream.root} does not list models as OpenAI's API does; correct the url.",
        )
    return _find_model([entry for entry in listed if isinstance(entry, dict)], upstream)


def _find_version(upstream: Upstream, path: str, timeout_s: float) -> str | None:
    """What the server says of itself; None where it says nothing that could be a version."""
    import httpx

    try:
        with httpx.Client(headers=upstream.headers, timeout=timeout_s, trust_env=False) as client:
            response = client.get(f"{upstream.root}{path}")
        told = response.json() if response.is_success and len(response.content) <= MOST_LISTED else None
    except (httpx.HTTPError, OSError, ValueError, RecursionError):
        return None
    version = told.get("version") if isinstance(told, dict) else None
    return version if isinstance(version, str) and _VERSION.fullmatch(version) else None


def _find_model(listed: list[dict[str, Any]], upstream: Upstream) -> Served:
    found = next((entry for entry in listed if entry.get("id") == upstream.model), None)
    if found is None:
        names = ", ".join(sorted(str(entry.get("id"))[:80] for entry in listed)[:8]) or "none"
        raise ModelError(
            "upstream_model_missing",
            f"The server at {upstream.root} does not serve {upstream.model} but {names}; correct the option model.",
        )
    length = found.get("max_model_len")
    told = length if isinstance(length, int) and not isinstance(length, bool) and length > 0 else None
    known = [upstream.model, found.get("root")]
    return Served(frozenset(name for name in known if isinstance(name, str)), told)


def read_refusal(status: int, headers: Mapping[str, str], content: bytes) -> UpstreamError:
    """What an answer other than 200 means for the request that got it. The server's words go to our log alone."""
    code, words = _read_error(content)
    _log.warning("the server refused a request: status %d, %s: %s", status, code or "no code", words)
    if code in _KEPT_CODES:
        message = "The server that answers for this engine refused the request, or its answer was none."
        return UpstreamError(EngineFailure(code, message, _KEPT_CODES[code]))
    told = f"status {status}" + (f", {code}" if code else "")
    if status in (408, 425, 429, 503):
        wait_s = read_wait(headers.get("retry-after"))
        busy = EngineFailure("upstream_busy", f"The server has too much to do ({told}).", True, wait_s)
        return UpstreamError(busy, busy=True)
    if status in (401, 403):
        refused = EngineFailure("upstream_key_refused", f"The server refuses the engine's key ({told}).", True, 5.0)
        return UpstreamError(refused, busy=True)
    if status == 404:
        gone = EngineFailure("upstream_model_missing", f"The server serves the model no longer ({told}).", True, 5.0)
        return UpstreamError(gone, busy=True)
    if status == 400 and _TOO_LONG.search(words):
        long = "Prompt and max_tokens do not fit into the context of the server's model; send less."
        return UpstreamError(EngineFailure("context_length_exceeded", long))
    if 400 <= status < 500:
        refusal = f"The server does not take this request ({told}); the worker's log has its words."
        return UpstreamError(EngineFailure("upstream_refused", refusal))
    if status >= 500:
        return UpstreamError(EngineFailure("upstream_failed", f"The server failed on this request ({told}).", True))
    return garbled(f"it answered with {told}")


def read_event_error(error: object) -> UpstreamError:
    """What an error in the middle of a stream means."""
    status = error.get("code") if isinstance(error, dict) else None
    content = b"%s" % repr(error).encode(errors="replace")[:_QUOTED]
    if isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600:
        return read_refusal(status, {}, content)
    if isinstance(status, str) and status in _KEPT_CODES:
        message = "The server that answers for this engine refused the request, or its answer was none."
        return UpstreamError(EngineFailure(status, message, _KEPT_CODES[status]))
    _log.warning("the server failed in the middle of an answer: %s", content.decode(errors="replace"))
    return UpstreamError(EngineFailure("upstream_failed", "The server failed in the middle of the answer.", True))


def garbled(why: str) -> UpstreamError:
    """The failure of an answer that is none."""
    message = f"What the server sent is no chat completion: {why}."
    return UpstreamError(EngineFailure("upstream_garbled", message, True))


def read_wait(value: str | None) -> float | None:
    """Seconds of a `Retry-After`; None where it says none. Dates are not read."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None


def _read_error(content: bytes) -> tuple[str, str]:
    """The code of an error's body, if it is a plain word, and its words for our log."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    inner = body.get("error", body) if isinstance(body, dict) else None
    found = inner if isinstance(inner, dict) else {}
    code, words = found.get("code"), found.get("message", inner if isinstance(inner, str) else "")
    plain = code if isinstance(code, str) and _CODE.fullmatch(code) else ""
    quoted = words if isinstance(words, str) and words else content[:_QUOTED].decode(errors="replace")
    return plain, "".join(char if char.isprintable() else " " for char in quoted[:_QUOTED])
