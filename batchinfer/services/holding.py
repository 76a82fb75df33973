"""A run that has just stopped itself: its waiting rows are held back.

The transaction that paused it has told its operator. Should the process end before the rows are moved, upkeep does it
within a minute (`batch_controls.mend_pauses`); what comes back meanwhile is held back where it is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.errors import Unavailable
from batchinfer.observe.logs import get_logger
from batchinfer.store import batch_pauses, runs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.services.context import Context

_log = get_logger(__name__)


def hold_back(ctx: Context, run_ids: Sequence[UUID]) -> None:
    """Keep back the waiting rows of runs that have just stopped themselves. Raises nothing: what stopped them is
    committed, and whoever ended their pages must not end them again."""
    for run_id in run_ids:
        _log.warning("a run has stopped itself", run_id=str(run_id))
        try:
            _move(ctx, run_id)
        except Unavailable as error:
            _log.warning("its rows are held back by upkeep", run_id=str(run_id), code=error.code)


def _move(ctx: Context, run_id: UUID) -> None:
    with ctx.db.transaction() as tx:
        run = runs.load_runs(tx, [run_id]).get(run_id)
    after: int | None = 0
    while run is not None and after is not None:
        with ctx.db.transaction() as tx:
            after = batch_pauses.move_rows(tx, run.tenant_id, run_id, paused=True, after=after)
