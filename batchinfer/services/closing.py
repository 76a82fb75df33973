"""A CPU worker closes a document of a run whose jobs have all ended: its outcome and its share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim


def close_document(
    ctx: Context, claim: Claim, insist: Callable[[Callable[[], bool]], bool], wanted: Callable[[], bool]
) -> bool:
    """To be written. False: nobody wants it any more."""
    raise NotImplementedError
