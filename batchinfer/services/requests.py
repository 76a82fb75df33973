"""A request as it is stored: the prompt that engines read, and when it expires."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from batchinfer.domain.reuse import Reuse
from batchinfer.store.session import read_now

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from batchinfer.domain.prompts import JobRequest, Upload
    from batchinfer.store.files import Blob
    from batchinfer.store.session import Transaction

_PLACE = {"type": "image", "index": 0}


def build_prompt(request: JobRequest, blobs: Sequence[Blob | None]) -> dict[str, Any]:
    """The prompt of a job: everything that an engine needs, and where the answer is told while it is made, if anybody
    listens. `normal` is filled in by preparing, and for an address `sha256` and `media_type` too."""
    told = {"channel": request.channel} if request.channel else {}
    return {
        "messages": [dict(message) for message in request.messages],
        "images": [_image(blob, upload, request) for blob, upload in zip(blobs, request.uploads, strict=False)],
        "sampling": dict(request.sampling),
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "response_format": request.response_format,
        **told,
        **_cache(request),
    }


def _cache(request: JobRequest) -> dict[str, str]:
    """What the request wants of kept answers, where it wants anything."""
    return {} if request.cache in (None, Reuse.OFF) else {"cache": request.cache.value}


def _image(blob: Blob | None, upload: Upload, request: JobRequest) -> dict[str, Any]:
    """A picture as it was sent; `param` is the user's field, for an error that is found when it is opened.

    `pages` says of an address whether a document that it leads to may stand for its pages.
    """
    if blob is None:
        return {"url": upload.url, "pages": request.pages_inline, "param": upload.param, "normal": None}
    return {"sha256": blob.sha256, "media_type": blob.media_type, "param": upload.param, "normal": None}


def build_page_prompt(request: JobRequest) -> dict[str, Any]:
    """The prompt of each page of a document: one place for its picture, where the file stood, else after the text."""
    prompt = build_prompt(request, ())
    messages = [{**message, "content": list(message["content"])} for message in prompt["messages"]]
    if not any(part["type"] == "image" for message in messages for part in message["content"]):
        last = next(message for message in reversed(messages) if message["role"] == "user")
        last["content"].append(_PLACE)
    return {**prompt, "messages": messages}


def find_expiry(tx: Transaction, request: JobRequest) -> datetime | None:
    """When the request expires, by the database's clock, or None where it never does."""
    if request.expires_in_s is None:
        return None
    return read_now(tx) + timedelta(seconds=request.expires_in_s)
