"""Who calls: `Authorization: Bearer bi_…` for all under /v1. Whatever is wrong with a key answers alike."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from flask import g, request

from batchinfer.api.state import current
from batchinfer.errors import Unauthenticated, Unavailable
from batchinfer.services import keys, rates

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.services.context import Caller

_BEARER = re.compile(r"bearer +(bi_[A-Za-z0-9_-]{8,128})\s*", re.IGNORECASE)
_SENTENCE = (
    "No valid API key: none was sent, or it is unknown, expired or revoked. Send the header "
    "`Authorization: Bearer bi_...` with a key that `batchinfer keys create` made."
)


def authenticate_request() -> None:
    """Find out who calls, before anything of the request is read. Raises Unauthenticated, Busy (the key's rate)."""
    match = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    if match is None:
        raise Unauthenticated(_SENTENCE)
    try:
        g.caller = keys.authenticate(current().context, match.group(1))
    except Unauthenticated:
        raise Unauthenticated(_SENTENCE) from None
    g.rate = rates.count_request(current().context, g.caller)
    if g.rate is not None and not g.rate.allowed:
        raise rates.refuse_rate(g.rate)


def find_validity() -> Callable[[], bool]:
    """Whether the key of this request still opens what it did, for an answer that takes minutes."""
    context, who = current().context, caller()
    match = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    token = match.group(1) if match else ""

    def is_valid() -> bool:
        try:
            return keys.authenticate(context, token).scopes >= who.scopes
        except Unauthenticated:
            return False
        except Unavailable:
            return True  # nobody can say now; nothing can be read now either

    return is_valid


def caller() -> Caller:
    """Who calls this request; only behind `authenticate_request`."""
    return cast("Caller", g.caller)
