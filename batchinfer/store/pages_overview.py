"""What the first page lists beside its series: batches that are under way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class LiveBatch:
    """A batch, or a run, that has not ended. `is_run`: of documents that a source lists."""

    id: UUID
    status: str
    model: str | None
    total: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    created_at: datetime
    expires_at: datetime
    paused: bool
    is_run: bool

    @property
    def ended(self) -> int:
        """Lines that have ended, however."""
        return self.completed + self.lost

    @property
    def lost(self) -> int:
        """Lines that ended without a result."""
        return self.failed + self.cancelled + self.expired


_LIVE = text("""
    SELECT id, status, model, total, completed, failed, cancelled, expired, created_at, expires_at,
           paused_at IS NOT NULL AS paused, input_file_id IS NULL AS is_run
    FROM batches WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') AND tenant_id = :tenant_id
    ORDER BY id DESC LIMIT :limit
""")


def list_live_batches(tx: Transaction, tenant_id: UUID, *, limit: int) -> list[LiveBatch]:
    """A tenant's batches that have not ended, newest first."""
    return [LiveBatch(**row._mapping) for row in tx.execute(_LIVE, {"tenant_id": tenant_id, "limit": limit})]
