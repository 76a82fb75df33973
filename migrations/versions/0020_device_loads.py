"""What hosts measure of their devices: memory and use by all processes, now and by the minute.

Revision: 0020
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision: str | None = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns; programs of before neither read nor write them."""
    op.execute("ALTER TABLE hosts ADD COLUMN loads JSONB DEFAULT '{}' NOT NULL")
    op.execute("ALTER TABLE device_gauges ADD COLUMN taken_mib DOUBLE PRECISION, ADD COLUMN use DOUBLE PRECISION")
