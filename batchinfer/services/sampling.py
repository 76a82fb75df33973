"""The random sample of a run's pages that people judge: drawn once the run has ended, the same for the same run."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from batchinfer.store import reviews as store

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.runs import Run
    from batchinfer.services.context import Context

#: Lines that are looked at in one transaction.
_LINES = 50_000


def choose_pages(ctx: Context, run: Run, size: int) -> list[UUID]:
    """The pages of a sample of `size`, in the order in which they are shown. Reads the run's lines some at a time, and
    keeps no more than `size` of them."""
    total = run.batch.counts.total if run.batch else 0
    smallest: list[tuple[str, UUID]] = []
    for after in range(0, total if size else 0, _LINES):
        with ctx.db.transaction() as tx:
            some = store.list_candidates(tx, run.id, after=after, upto=after + _LINES, size=size)
        smallest = heapq.nsmallest(size, [*smallest, *some])
    return [job_id for _, job_id in smallest]
