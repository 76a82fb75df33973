"""A CPU worker writes a shard of a run's results to each of its sinks: aside first, then renamed, safe to do again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim
    from batchinfer.store.session import Transaction


def queue_full_shards(tx: Transaction, run_id: UUID) -> list[UUID]:  # noqa: ARG001
    """To be written."""
    return []


def seal_shard(
    ctx: Context,
    claim: Claim,
    scratch: Path,
    insist: Callable[[Callable[[], bool]], bool],
    wanted: Callable[[], bool],
) -> bool:
    """To be written. False: nobody wants it any more."""
    raise NotImplementedError
