"""Lines of JSON as a body: read from the socket in pieces, and what JSON would hold beside them, in the query."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

from flask import request

from batchinfer.api.idempotency import read_idempotency
from batchinfer.api.queries import LinesQuery
from batchinfer.api.state import current
from batchinfer.domain.fields import decode_json, read_object, refuse
from batchinfer.errors import BadRequest
from batchinfer.services.findings import refuse_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchinfer.services.context import Idempotency

#: Names for it; the first is the one that is told.
LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
_PIECE_BYTES = 2**18


def has_lines() -> bool:
    """Whether the body is lines."""
    return request.mimetype in LINES


def read_options(query: LinesQuery) -> dict[str, Any]:
    """The query as the JSON body would have said it; what was not said is None. Raises BadRequest."""
    given = query.model_dump()
    metadata, seconds = given.pop("metadata"), given.pop("output_expires_s")
    ours = {name: value for name in ("priority", "cache") if (value := given.pop(name)) is not None}
    after = None if seconds is None else {"anchor": "created_at", "seconds": seconds}
    return {
        **given,
        "metadata": None if metadata is None else _read_metadata(metadata),
        "batchinfer": ours or None,
        "output_expires_after": after,
    }


def _read_metadata(text: str) -> dict[str, Any]:
    try:
        return read_object(decode_json(text.encode("utf-8", "surrogatepass")), "metadata")
    except BadRequest as error:
        raise BadRequest(
            error.message.replace("The body", "`metadata`"), code=error.code, param=error.param or "metadata"
        ) from None


def refuse_options(query: LinesQuery) -> None:
    """Go on only without a query: where the body is JSON it stands there. Raises BadRequest."""
    for name, value in query.model_dump().items():
        if value is not None:
            refuse(name, f"is for a body of lines ({LINES[0]}). Put it into the JSON body.", "unknown_parameter")


def read_pieces() -> Iterator[bytes]:
    """The body, as it comes. Raises TooLarge (code file_too_large) where it is longer than a batch's file may be, and
    BadRequest where it is cut off."""
    most = current().context.settings.max_batch_bytes
    if (request.content_length or 0) > most:
        raise refuse_file(most)
    request.max_content_length = most + 1
    total = 0
    while piece := request.stream.read(_PIECE_BYTES):
        total += len(piece)
        if total > most:
            raise refuse_file(most)
        yield piece
    if request.content_length is not None and total != request.content_length:  # the server does not tell
        raise BadRequest("The body is shorter than its Content-Length says. Send it again, whole.")


class _Body(io.RawIOBase):
    """The body as a file to read from once; it raises what `read_pieces` does."""

    def __init__(self) -> None:
        self._pieces, self._rest = read_pieces(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._pieces, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def open_lines() -> io.BufferedReader:
    """The body, to be read line by line and kept nowhere."""
    return io.BufferedReader(_Body(), _PIECE_BYTES)


def hash_lines(sha256: bytes) -> Idempotency | None:
    """The key of this request, whose lines have this SHA-256."""
    query = "\0".join(f"{name}={value}" for name, value in sorted(request.args.items()))
    digest = hashlib.sha256(b"lines\0" + sha256 + query.encode("utf-8", "surrogatepass")).digest()
    return read_idempotency("/v1/batches", digest)
