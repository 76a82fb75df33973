"""What holds for every answer under /admin: headers, no writes from other sites, a limit on wrong keys."""

from __future__ import annotations

import threading
import time
from collections import deque
from urllib.parse import urlsplit

from flask import Blueprint, Response, request

from batchinfer.errors import Busy, Forbidden

CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
#: Methods that change nothing. An allow-list: a method nobody thought of is guarded.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def register(blueprint: Blueprint) -> None:
    """Put the guards before and after every view."""
    blueprint.before_request(refuse_other_sites)
    blueprint.after_request(set_headers)


def refuse_other_sites() -> None:
    """Stop a request that changes something unless a page of ours sent it. Raises Forbidden.

    Browsers say where a request comes from in `Sec-Fetch-Site` (on HTTPS and loopback) and in `Origin`
    (always, as long as our Referrer-Policy is not `no-referrer`, which would make it "null"). A client that
    sends neither is no browser, and has no cookie that another site could ride on.
    """
    if request.method in SAFE_METHODS:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    same = site in {"same-origin", "none"} if site else origin is None or urlsplit(origin).netloc == request.host
    if not same:
        raise Forbidden(
            "This form was sent from another site. Open the page here and send it again.", code="other_site"
        )


def set_headers(response: Response) -> Response:
    """The strict headers; a page is never stored, files and pictures set their own Cache-Control, and a report, which
    is a page of its own, its own stricter policy."""
    response.headers.setdefault("Content-Security-Policy", CSP)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    if request.endpoint not in {"admin.static", "admin.show_picture"}:
        response.headers["Cache-Control"] = "no-store"
    return response


class Throttle:
    """At most `most` failures an address in `within_s` seconds, in this process, for few addresses at a time.

    Keys are 256 random bits, so nobody guesses one; this keeps a mistaken script from costing queries.
    """

    def __init__(self, most: int = 10, within_s: float = 300.0, addresses: int = 10_000) -> None:
        self._most, self._within_s, self._addresses = most, within_s, addresses
        self._failures: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Go on only while the address has tries left. Raises Busy with the seconds to wait."""
        with self._lock:
            failures = self._recent(address)
            if failures is None or len(failures) < self._most:
                return
            wait_s = int(failures[0] + self._within_s - time.monotonic()) + 1
        raise Busy(
            f"Too many wrong keys from this address. Try again in {wait_s} seconds.",
            code="too_many_attempts",
            retry_after_s=wait_s,
        )

    def count_failure(self, address: str) -> None:
        """Remember one wrong key."""
        with self._lock:
            if len(self._failures) >= self._addresses:
                self._failures.clear()
            self._failures.setdefault(address, deque()).append(time.monotonic())

    def _recent(self, address: str) -> deque[float] | None:
        failures = self._failures.get(address)
        while failures and failures[0] < time.monotonic() - self._within_s:
            failures.popleft()
        return failures
