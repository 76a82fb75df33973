"""Answers that a client may have already: an ETag of the bytes, and 304 where `If-None-Match` names it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from flask import Response, request

from batchinfer.api.bodies import reply

if TYPE_CHECKING:
    from pydantic import BaseModel


def reply_tagged(body: BaseModel) -> Response:
    """An answer of JSON with its tag; 304 without a body where the client has it."""
    return tag(reply(body))


def tag(response: Response) -> Response:
    """The response with its tag, or as 304. No cache may answer in our place: the key is asked for each time."""
    response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32])
    response.headers["Cache-Control"] = "private, no-cache"
    response.make_conditional(request.environ)
    return response
