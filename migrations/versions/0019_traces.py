"""The trace that a job, a batch or a document belongs to.

Revision: 0019
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision: str | None = "0018"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE jobs ADD COLUMN trace TEXT;
ALTER TABLE batches ADD COLUMN trace TEXT;
ALTER TABLE documents ADD COLUMN trace TEXT;
"""


def upgrade() -> None:
    op.execute(STATEMENTS)
