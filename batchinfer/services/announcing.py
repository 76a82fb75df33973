"""Announce rows that wait again, after their transaction has committed."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from batchinfer.store.claims import INFER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.domain.jobs import JobClass
    from batchinfer.services.context import Context
    from batchinfer.store.claims import Requeued


def announce_requeued(ctx: Context, rows: Sequence[Requeued]) -> None:
    """Announce each to the workers of its kind, one message a model and class where they fit. Never raises."""
    groups: dict[tuple[str, JobClass], list[UUID]] = defaultdict(list)
    for row in rows:
        if row.kind == INFER:
            groups[row.model, row.job_class].append(row.id)
    for (model, job_class), ids in groups.items():
        ctx.announcer.announce(model, job_class, ids)
    ctx.announcer.announce_cpu([row.id for row in rows if row.kind != INFER])
