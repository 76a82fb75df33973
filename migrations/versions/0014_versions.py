"""What made a result, in versions, kept with it; the golden prompts that a deployment goes on with after a swap; and when
a revision's files were last read.

Revision: 0014
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision: str | None = "0013"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE results ADD COLUMN versions JSONB;
ALTER TABLE deployments ADD COLUMN golden JSONB;
ALTER TABLE model_revisions ADD COLUMN checked_at timestamptz;
"""


def upgrade() -> None:
    op.execute(STATEMENTS)
