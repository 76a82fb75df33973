"""A CPU worker lists the source of a run into its manifest, while the first pages already run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim


def list_source(
    ctx: Context, claim: Claim, insist: Callable[[Callable[[], bool]], bool], wanted: Callable[[], bool]
) -> bool:
    """To be written. False: nobody wants it any more."""
    raise NotImplementedError
