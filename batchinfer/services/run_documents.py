"""A user's view into the manifest of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.services.context import Page
from batchinfer.services.runs import require_run
from batchinfer.store import run_documents as store
from batchinfer.store.runs import find_run

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Caller, Context
    from batchinfer.store.run_documents import RunDocument

#: Where a document of a run is, and how it ended.
STAGES = ("listed", "queued", "closed", "skipped")
OUTCOMES = ("completed", "completed_with_errors", "failed", "cancelled", "expired")


def list_run_documents(
    ctx: Context,
    caller: Caller,
    run_id: UUID,
    *,
    stage: str | None = None,
    outcome: str | None = None,
    after: UUID | None = None,
    limit: int = 20,
) -> Page[RunDocument]:
    """Documents of a run as they were listed, beginning behind the document `after`. Raises NotFound."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        require_run(find_run(tx, caller.tenant_id, run_id))
        found = store.list_run_documents(
            tx, caller.tenant_id, run_id, stage=stage, outcome=outcome, after=after, limit=limit + 1
        )
    return Page.cut(found, limit, backwards=False)
