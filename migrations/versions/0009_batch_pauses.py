"""Batches that are paused.

Revision: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision: str | None = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE batches ADD COLUMN paused_at timestamptz")
    op.execute("CREATE INDEX ix_queue_paused ON queue (id) WHERE state = 'paused'")
