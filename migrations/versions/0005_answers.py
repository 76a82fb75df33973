"""Answers that serve again.

Revision: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE answers (
    tenant_id UUID NOT NULL,
    key TEXT NOT NULL,
    revision TEXT NOT NULL,
    job_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_answers PRIMARY KEY (tenant_id, key, revision)
);
CREATE INDEX ix_answers_job_id ON answers (job_id);

ALTER TABLE jobs ADD COLUMN reuse_key TEXT;
ALTER TABLE results ADD COLUMN reused_from UUID;
ALTER TABLE batches ADD COLUMN cache_hits INTEGER DEFAULT '0' NOT NULL;
ALTER TABLE minutes ADD COLUMN reused BIGINT DEFAULT '0' NOT NULL;
"""


def upgrade() -> None:
    op.execute(TABLES)
