"""Requests that are sent again where that helps and harms nothing: every create carries an `Idempotency-Key`."""

from __future__ import annotations

import ipaddress
import random
import time
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from batchinfer import __version__
from batchinfer.client.errors import read_error
from batchinfer.errors import BatchinferError, Busy, SettingsError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: Pauses between tries where the service does not say: doubled from the first up to the last, in seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
#: However soon the service says.
_LEAST_PAUSE_S = 0.1
#: Answers worth another try that a proxy in between may give, which knows nothing of `x-should-retry`.
_PASSING = frozenset({408, 429, 502, 503, 504})
_PIECE_BYTES = 2**18


@dataclass(frozen=True)
class Patience:
    """How long a request is tried again: so many seconds, and while the service is merely full, so many others.

    A pause ends early, and with it the patience, when `stop` is set.
    """

    seconds: float = 120.0
    busy_s: float = 120.0
    stop: Event = field(default_factory=Event)

    def limit_s(self, error: BatchinferError) -> float:
        """Seconds since the first try within which this error is borne."""
        return self.busy_s if isinstance(error, Busy) else self.seconds


class Transport:
    """Speaks JSON with one service. May be used from several threads."""

    def __init__(self, url: str, api_key: str, *, patience: Patience, timeout_s: float) -> None:
        """`url` with or without `/v1` at its end. Raises SettingsError where it is no address."""
        base = read_url(url)
        self.patience = patience
        self._http = httpx.Client(
            base_url=base,
            headers={"Authorization": f"Bearer {api_key}", "User-Agent": f"batchinfer/{__version__}"},
            timeout=timeout_s,
            # A proxy that the environment names is not on the way to a service of this machine.
            trust_env=not _is_local(base),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(
        self, method: str, path: str, *, patience: Patience | None = None, again: bool = True, **options: Any
    ) -> dict[str, Any]:
        """The JSON of the answer. `again=False`: not after the request may have been taken.

        Raises the errors of `batchinfer.errors`, and Unreachable.
        """
        response = self._try(method, path, patience or self.patience, again=again, options=options)
        try:
            answer: dict[str, Any] = response.json()
        except ValueError:
            raise Unreachable(f"{method} {path}: the answer is not JSON. Is the address that of the service?") from None
        return answer

    def create(
        self, path: str, *, key: str | None = None, patience: Patience | None = None, **options: Any
    ) -> dict[str, Any]:
        """POST what makes something, once however often it is sent: `key`, or one of this call's own."""
        headers = {"Idempotency-Key": key or uuid4().hex}
        return self.ask("POST", path, patience=patience, headers=headers, **options)

    def list(self, path: str, query: Mapping[str, Any], limit: int | None, page: int = 100) -> Iterator[dict[str, Any]]:
        """The things of a list, page after page, at most `limit`."""
        asked = {name: value for name, value in query.items() if value is not None}
        left = limit
        while left is None or left > 0:
            size = page if left is None else min(page, left)
            answer = self.ask("GET", path, params={**asked, "limit": size})
            yield from answer["data"][:size]
            if not answer["has_more"] or not answer["data"]:
                return
            asked["after"] = answer["last_id"]
            left = None if left is None else left - len(answer["data"])

    def download(self, path: str, to: Path) -> int:
        """Write what a path answers beside `to`, then put it in its place; answers its bytes."""
        beside = to.with_name(f".{to.name}.{uuid4().hex[:8]}")
        try:
            size = self._download(path, beside)
            beside.replace(to)
        finally:
            beside.unlink(missing_ok=True)
        return size

    def _download(self, path: str, to: Path) -> int:
        tries = _Tries("GET", path, self.patience)
        while True:
            try:
                with self._http.stream("GET", path) as response, to.open("wb") as file:
                    if response.status_code < 400:
                        return sum(file.write(piece) for piece in response.iter_bytes(_PIECE_BYTES))
                    response.read()
                tries.bear_answer(response)
            except httpx.TransportError as error:
                tries.bear_silence(error, taken=False)

    def _try(
        self, method: str, path: str, patience: Patience, *, again: bool, options: dict[str, Any]
    ) -> httpx.Response:
        tries = _Tries(method, path, patience)
        while True:
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                tries.bear_silence(error, taken=not again and not isinstance(error, httpx.ConnectError))
            else:
                if response.status_code < 300:
                    return response
                tries.bear_answer(response)


class _Tries:
    """The tries of one request. Each `bear_…` pauses before the next one, or raises."""

    def __init__(self, method: str, path: str, patience: Patience) -> None:
        self._what, self._patience = f"{method} {path}", patience
        self._began_s, self._pause_s = time.monotonic(), _FIRST_PAUSE_S

    def bear_silence(self, error: httpx.TransportError, *, taken: bool) -> None:
        """No answer. `taken`: the request may have been carried out, and must not be sent again."""
        silence = Unreachable(f"{self._what}: no answer ({type(error).__name__}). Does the service run there?")
        if taken:
            raise silence from None
        self._pause(silence)

    def bear_answer(self, response: httpx.Response) -> None:
        """An answer that is an error, or a redirect, which is not followed: it would carry the key elsewhere."""
        error = read_error(response)
        told = response.headers.get("x-should-retry")
        if told == "true" or (told is None and response.status_code in _PASSING):
            self._pause(error)
            return
        raise error

    def _pause(self, error: BatchinferError) -> None:
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        if error.retry_after_s is not None:
            pause_s = max(error.retry_after_s, _LEAST_PAUSE_S)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if time.monotonic() + pause_s - self._began_s > self._patience.limit_s(error):
            raise error
        if self._patience.stop.wait(pause_s):
            raise error


def read_url(url: str) -> str:
    """The address without `/v1` and slashes at its end. Raises SettingsError."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError("The address of the service must begin with http:// or https://. Correct BATCHINFER_URL.")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
