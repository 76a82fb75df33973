"""Documents that are listed become work, as far as the pages that were rendered ahead allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Context


def pump(ctx: Context, run_id: UUID) -> None:
    """To be written."""
