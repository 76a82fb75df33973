"""A run that has just stopped itself: its waiting rows are held back, and it is told of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.store import batch_pauses, runs
from batchinfer.store.events import Event, record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.services.context import Context


def hold_back(ctx: Context, run_ids: Sequence[UUID]) -> None:
    """Keep back the waiting rows of runs that have just stopped themselves. Upkeep does the same a minute later."""
    for run_id in run_ids:
        with ctx.db.transaction() as tx:
            tenant_id = runs.load_runs(tx, [run_id])[run_id].tenant_id
        after: int | None = 0
        while after is not None:
            with ctx.db.transaction() as tx:
                after = batch_pauses.move_rows(tx, tenant_id, run_id, paused=True, after=after)
        with ctx.db.transaction() as tx:
            record(tx, [Event(tenant_id, "run", run_id, "stopped", "the run itself")])
