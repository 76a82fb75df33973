"""Model hubs over plain HTTPS: Hugging Face's and ModelScope's way to list a repository and to read its files.

Each hop goes through the one guarded way out (`media.outward`). A token is read from the environment (`HF_TOKEN`,
`MODELSCOPE_API_TOKEN`), kept nowhere, and sent to the hub alone, never to where it redirects.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlencode

from batchinfer import __version__
from batchinfer.domain.addresses import Reach, parse_networks, parse_web_url
from batchinfer.domain.model_files import Listing, ModelFile, pin_files
from batchinfer.domain.registry import SourceKind
from batchinfer.errors import BadRequest, Failure, FetchFailed
from batchinfer.media.outward import SENTENCES, Door, OutwardError, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchinfer.domain.addresses import WebUrl
    from batchinfer.domain.registry import ModelSource
    from batchinfer.media.outward import Exchange
    from batchinfer.settings import Settings

_PIECE_BYTES = 2**18
#: What the head and the framing of an answer may take beside its bytes.
_FRAMING_BYTES = 2**20
#: Longest listing of a repository.
_LISTING_BYTES = 64 * 2**20
_REDIRECTS, _URL_CHARS = 5, 8192
_MOVED = frozenset({301, 302, 303, 307, 308})
_REFUSED = frozenset({401, 403})
_MAY_PASS = frozenset({Reason.NAME, Reason.CONNECT, Reason.TIMEOUT, Reason.CUT})
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_SHA = re.compile(r"[0-9a-f]{40,64}")
_LONGEST_WAIT_S = 120
_TOKENS = {SourceKind.HUGGING_FACE: "HF_TOKEN", SourceKind.MODELSCOPE: "MODELSCOPE_API_TOKEN"}


class Hub:
    """A repository of a hub. Everything may raise Failure, and FetchFailed where another try may pass."""

    kind: SourceKind

    def __init__(self, source: ModelSource, settings: Settings, door: Door | None = None) -> None:
        self._source, self._door = source, door or Door()
        self._home = self._find_home(settings).rstrip("/")
        self._reach = Reach(self._home.startswith("http://"), parse_networks(settings.hub_networks))
        self._timeout_s = settings.hub_timeout_s
        self._token = os.environ.get(_TOKENS[self.kind])

    def list(self) -> Listing:
        """All files of the revision that is asked for, and the hash that pins it."""
        raise NotImplementedError

    @contextlib.contextmanager
    def read(self, file: ModelFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes of a file from `start` on, in pieces, and where they really begin: 0 where the hub cannot do
        otherwise. They end early where the hub ends early or the time is up."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._get(self._find_address(file), file.size_bytes, headers) as exchange:
            if exchange.status == HTTPStatus.PARTIAL_CONTENT:
                found = _RANGE.fullmatch(exchange.headers.get("content-range", ""))
                if found is None or int(found[1]) != start or int(found[3]) != file.size_bytes:
                    raise mismatch(file)
            elif exchange.headers.get("content-length", str(file.size_bytes)) != str(file.size_bytes):
                raise mismatch(file)
            begins = start if exchange.status == HTTPStatus.PARTIAL_CONTENT else 0
            yield begins, _pieces(exchange, file.size_bytes - begins)

    def _find_home(self, settings: Settings) -> str:
        raise NotImplementedError

    def _find_address(self, file: ModelFile) -> str:
        raise NotImplementedError

    def _ask(self, path: str) -> Any:
        """The JSON at a path of the hub."""
        accept = {"Accept": "application/json"}
        with self._get(f"{self._home}{path}", _LISTING_BYTES, accept) as exchange, _told_apart():
            raw = exchange.read(_LISTING_BYTES)
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(raw)
        raise Failure("What the hub answered is no JSON. Correct the setting that names it.", code="hub_unreadable")

    @contextlib.contextmanager
    def _get(self, address: str, most_bytes: int, headers: dict[str, str]) -> Iterator[Exchange]:
        home = _read_url(self._home, self._reach)
        for _ in range(_REDIRECTS + 1):
            url = _read_url(address, self._reach)
            usual = {"User-Agent": f"batchinfer/{__version__}", "Accept-Encoding": "identity", **headers}
            if self._token and (url.scheme, url.authority) == (home.scheme, home.authority):
                usual["Authorization"] = f"Bearer {self._token}"
            with contextlib.ExitStack() as stack:
                with _told_apart():
                    opened = self._door.open(
                        "GET", url, self._reach, headers=usual, total_s=self._timeout_s,
                        most_bytes=most_bytes + _FRAMING_BYTES,
                    )  # fmt: skip
                    exchange = stack.enter_context(opened)
                if exchange.status not in _MOVED:
                    self._check(exchange)
                    yield exchange
                    return
                address = url.join(exchange.headers.get("location", ""))
        raise Failure(f"The hub leads from one address to the next over {_REDIRECTS} times.", code="hub_unreadable")

    def _check(self, exchange: Exchange) -> None:
        status, name = exchange.status, f"{self._source.at} at {self._source.revision}"
        if exchange.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise Failure("The hub compresses what it was asked to send as it is.", code="hub_unreadable")
        if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            return
        if status in _REFUSED:
            raise Failure(
                f"The hub does not hand out {name} (status {status}). Accept the model's terms there, and put a token "
                f"that may read it into {_TOKENS[self.kind]} where the service and its CPU workers start.",
                code="hub_refused",
            )  # fmt: skip
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            raise Failure(f"The hub has no {name}. Correct the repository or the revision.", code="hub_not_found")
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise FetchFailed("The hub wants fewer requests (status 429). It is asked again later.", code="hub_busy",
                              retry_after_s=_read_wait(exchange.headers.get("retry-after", "")))  # fmt: skip
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
            raise _make_unreachable(f"it answered {status}")
        raise Failure(f"The hub answered {status}, which means nothing here.", code="hub_unreadable")


class HuggingFace(Hub):
    """A repository of Hugging Face, or of a mirror that speaks like it."""

    kind = SourceKind.HUGGING_FACE

    def list(self) -> Listing:
        asked = quote(self._source.revision or "main", safe="")
        found = self._ask(f"/api/models/{self._source.at}/revision/{asked}?blobs=true")
        commit = found.get("sha") if isinstance(found, dict) else None
        if not isinstance(commit, str) or not _SHA.fullmatch(commit):
            _refuse_listing()
        card = found.get("cardData")
        licence = card.get("license") if isinstance(card, dict) else None
        entries = found.get("siblings")
        files = [_read_sibling(entry, commit) for entry in entries] if isinstance(entries, list) else []
        return Listing(commit, tuple(files), licence if isinstance(licence, str) else None)

    def _find_home(self, settings: Settings) -> str:
        return settings.hub_url

    def _find_address(self, file: ModelFile) -> str:
        return f"{self._home}/{self._source.at}/resolve/{file.commit}/{quote(file.name)}"


class ModelScope(Hub):
    """A repository of ModelScope. It names no commit of the whole: its files' SHA-256 pin the revision, and each is
    read at its own commit."""

    kind = SourceKind.MODELSCOPE

    def list(self) -> Listing:
        query = urlencode({"Revision": self._source.revision or "master", "Recursive": "true"})
        found = self._ask(f"/api/v1/models/{self._source.at}/repo/files?{query}")
        data = found.get("Data") if isinstance(found, dict) else None
        entries = data.get("Files") if isinstance(data, dict) else None
        if not isinstance(entries, list):
            _refuse_listing()
        files = tuple(_read_scope_file(entry) for entry in entries if _get(entry, "Type") != "tree")
        return Listing(pin_files(files), files)

    def _find_home(self, settings: Settings) -> str:
        return settings.modelscope_url

    def _find_address(self, file: ModelFile) -> str:
        query = urlencode({"Revision": file.commit or self._source.revision or "master", "FilePath": file.name})
        return f"{self._home}/api/v1/models/{self._source.at}/repo?{query}"


def mismatch(file: ModelFile) -> Failure:
    """The error for a file that is not what was listed."""
    return Failure(
        f"{file.name} is not what was listed: its size or its SHA-256 differs. What came of it was thrown away. Fetch "
        "it again; if it stays so, the source has changed or is damaged.", code="model_file_mismatch",
    )  # fmt: skip


def _read_sibling(entry: Any, commit: str) -> ModelFile:
    stored = _get(entry, "lfs")
    name, size, git = _get(entry, "rfilename"), _get(stored or entry, "size"), _get(entry, "blobId")
    sha256 = _get(stored, "sha256")
    if not isinstance(name, str) or not isinstance(size, int) or size < 0:
        _refuse_listing()
    return ModelFile(name, size, _read_hash(sha256, 64), None if sha256 else _read_hash(git, 40), commit=commit)


def _read_scope_file(entry: Any) -> ModelFile:
    name, size = _get(entry, "Path"), _get(entry, "Size")
    if not isinstance(name, str) or not isinstance(size, int) or size < 0:
        _refuse_listing()
    return ModelFile(name, size, _read_hash(_get(entry, "Sha256"), 64), commit=_read_hash(_get(entry, "Revision"), 40))


def _get(entry: Any, name: str) -> Any:
    return entry.get(name) if isinstance(entry, dict) else None


def _read_hash(text: Any, digits: int) -> str | None:
    return text if isinstance(text, str) and len(text) == digits and _SHA.fullmatch(text) else None


def _refuse_listing() -> NoReturn:
    raise Failure("The hub's list of files cannot be read. Correct the setting that names it.", code="hub_unreadable")


def _pieces(exchange: Exchange, left_bytes: int) -> Iterator[bytes]:
    """The body, so far as it is wanted. Raises FetchFailed where it breaks off."""
    while left_bytes > 0:
        with _told_apart():
            piece = exchange.read(min(_PIECE_BYTES, left_bytes))
        if not piece:
            return
        left_bytes -= len(piece)
        yield piece


def _read_url(address: str, reach: Reach) -> WebUrl:
    try:
        return parse_web_url(address, reach, param="source", max_chars=_URL_CHARS)
    except BadRequest as error:
        raise Failure(
            f"The hub cannot be asked, or leads elsewhere: {error.message} The settings hub_url and hub_networks say "
            "what may be asked.", code="hub_not_allowed",
        ) from None  # fmt: skip


def _read_wait(text: str) -> int | None:
    return min(int(text), _LONGEST_WAIT_S) if text.isascii() and text.isdigit() and len(text) < 6 else None


def _make_unreachable(why: str) -> FetchFailed:
    return FetchFailed(f"The hub could not be asked: {why}. It is asked again.", code="hub_unreachable")


@contextlib.contextmanager
def _told_apart() -> Iterator[None]:
    """What the way out says, as one of our errors."""
    try:
        yield
    except OutwardError as error:
        if error.reason in _MAY_PASS:
            raise _make_unreachable(SENTENCES[error.reason].rstrip(".")) from None
        if error.reason is Reason.REFUSED:
            raise Failure(
                "The hub, or where it leads, has an address that is not open to the public. Name its network in the "
                "setting hub_networks.", code="hub_not_allowed",
            ) from None  # fmt: skip
        raise Failure(f"The hub cannot be read: {SENTENCES[error.reason]}", code="hub_unreadable") from None
