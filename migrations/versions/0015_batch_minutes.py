"""What ended of each batch in each minute.

Revision: 0015
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision: str | None = "0014"
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE batch_minutes (
    batch_id UUID NOT NULL,
    minute timestamptz NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    completed BIGINT DEFAULT '0' NOT NULL,
    failed BIGINT DEFAULT '0' NOT NULL,
    CONSTRAINT pk_batch_minutes PRIMARY KEY (batch_id, minute)
);
"""


def upgrade() -> None:
    op.execute(STATEMENTS)
