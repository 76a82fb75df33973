"""The fetcher: what lies at an address that a user sent, written to a file. Used by CPU workers alone.

Each hop goes through the one guarded way out (`media.outward`), after its address was read and checked anew. Nothing is
ever decompressed, no type that a host declares is believed, and one deadline holds for all hops.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, NoReturn

from batchinfer import __version__
from batchinfer.domain.addresses import Reach
from batchinfer.domain.fetching import find_fetch_rules, parse_fetch_url
from batchinfer.errors import BadImage, FetchFailed
from batchinfer.media.outward import SENTENCES, Door, OutwardError, Reason

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.media.outward import Exchange
    from batchinfer.settings import Settings

_PIECE_BYTES = 2**16
#: What the head and the framing of an answer may take beside its bytes.
_FRAMING_BYTES = 2**18
_MOVED = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})
#: Statuses that may be others a moment later, beside all of 500 and above.
_PASSING = frozenset({408, 425, 429})
#: Reasons that may have passed when the next try is made.
_MAY_PASS = frozenset({Reason.NAME, Reason.CONNECT, Reason.TIMEOUT, Reason.CUT})
_HEADERS = {
    "User-Agent": f"batchinfer/{__version__}",
    "Accept": "image/*, application/pdf",
    "Accept-Encoding": "identity",
}
_REMEDY = "Send the bytes instead: data:image/png;base64,..."


class Fetcher:
    """Fetches as the settings allow. Safe for threads."""

    def __init__(self, settings: Settings, door: Door | None = None) -> None:
        self._rules = find_fetch_rules(settings)
        self._reach = self._rules.reach if self._rules else Reach()
        self._max_bytes, self._timeout_s = settings.fetch_max_bytes, settings.fetch_timeout_s
        self._redirects = settings.fetch_redirects
        self._door = door or Door()

    def fetch(self, address: str, target: Path, *, param: str) -> None:
        """Write what lies at the address to `target`; `param` is the user's field, for errors.

        Raises BadRequest (BadImage among them) where it will always be so, as a host that is not permitted, 404 or too
        many bytes, and FetchFailed where another try may pass.
        """
        deadline, location = time.monotonic() + self._timeout_s, address
        for _ in range(self._redirects + 1):
            url = parse_fetch_url(location, self._rules, param=param)
            try:
                with self._door.open(
                    "GET", url, self._reach, headers=_HEADERS, total_s=deadline - time.monotonic(),
                    most_bytes=self._max_bytes + _FRAMING_BYTES,
                ) as exchange:  # fmt: skip
                    if exchange.status not in _MOVED:
                        self._write(exchange, target, param)
                        return
                    location = url.join(exchange.headers.get("location", ""))
            except OutwardError as error:
                _refuse_reason(error.reason, param)
        _refuse(f"`{param}` leads from one address to the next over {self._redirects} times. {_REMEDY}", param)

    def _write(self, exchange: Exchange, target: Path, param: str) -> None:
        _check_status(exchange.status, param)
        if exchange.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            _refuse(f"`{param}` leads to a host that compresses what it was asked to send as it is. {_REMEDY}", param)
        left_bytes = self._max_bytes
        with target.open("wb") as file:
            while piece := exchange.read(min(_PIECE_BYTES, left_bytes + 1)):
                left_bytes -= len(piece)
                if left_bytes < 0:
                    _refuse_reason(Reason.LARGE, param)
                file.write(piece)
        if left_bytes == self._max_bytes:
            raise BadImage(f"`{param}` leads to a file of 0 bytes. {_REMEDY}", code="empty_image_file", param=param)


def _check_status(status: int, param: str) -> None:
    if status == HTTPStatus.OK:
        return
    if status in _GONE:
        raise BadImage(
            f"`{param}` leads to nothing: its host answered {status}. Correct the address.",
            code="image_file_not_found", param=param,
        )  # fmt: skip
    if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _make_unreachable(f"its host answered {status}", param)
    _refuse(f"`{param}` could not be fetched: its host answered {status}. {_REMEDY}", param)


def _refuse_reason(reason: Reason, param: str) -> NoReturn:
    """Raise the error for a request that came to nothing."""
    if reason in _MAY_PASS:
        raise _make_unreachable(SENTENCES[reason].rstrip("."), param)
    if reason is Reason.LARGE:
        raise BadImage(
            f"`{param}` leads to a file over the setting fetch_max_bytes. Send a smaller one.",
            code="image_file_too_large", param=param,
        )  # fmt: skip
    if reason is Reason.REFUSED:
        raise BadImage(f"`{param}`: {SENTENCES[reason]} {_REMEDY}", code="url_not_allowed", param=param)
    _refuse(f"`{param}`: {SENTENCES[reason]} {_REMEDY}", param)


def _make_unreachable(why: str, param: str) -> FetchFailed:
    return FetchFailed(
        f"`{param}` could not be fetched: {why}. Submit it again later, or send the bytes.",
        code="failed_to_download_image", param=param,
    )  # fmt: skip


def _refuse(sentence: str, param: str) -> NoReturn:
    raise BadImage(sentence, code="failed_to_download_image", param=param)
