"""`Idempotency-Key`: the same key with the same request answers with what the first one made."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from flask import request

from batchinfer.errors import BadRequest
from batchinfer.services.context import Idempotency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchinfer.domain.prompts import Upload

_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")


def read_idempotency(route: str, request_sha256: bytes) -> Idempotency | None:
    """The key of this request, if it has one. Raises BadRequest for one that is no key."""
    key = check_key()
    if key is None:
        return None
    return Idempotency(method=request.method, route=route, key=key, request_sha256=request_sha256)


def check_key() -> str | None:
    """The key as it came, if there is one: for a route that refuses one that is none before it looks at anything else.

    Raises BadRequest for one that is no key.
    """
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise BadRequest(
            "The header Idempotency-Key must have 1 to 255 printable ASCII characters, a UUID for example.",
            code="invalid_idempotency_key",
            param="Idempotency-Key",
        )
    return key


def hash_body(raw: bytes) -> bytes:
    """SHA-256 of a JSON body as it came."""
    return hashlib.sha256(b"json\0" + raw).digest()


def hash_form(fields: Mapping[str, str], uploads: Sequence[Upload]) -> bytes:
    """SHA-256 of a form: its fields and files, whatever boundary and order of fields they came with."""
    whole = hashlib.sha256(b"form\0")
    for name, text in sorted(fields.items()):
        for part in (name, text):
            _add(whole, part.encode("utf-8", "surrogatepass"))
    for upload in uploads:
        _add(whole, (upload.filename or "").encode("utf-8", "surrogatepass"))
        _add(whole, hashlib.sha256(upload.data).digest())
    return whole.digest()


def _add(whole: hashlib._Hash, part: bytes) -> None:
    whole.update(len(part).to_bytes(8, "big") + part)
