"""How long a tenant's jobs are kept, where that is not the setting's.

Revision: 0018
"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision: str | None = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE tenants ADD COLUMN keep_days INTEGER")
