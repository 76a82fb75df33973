"""Acts on many jobs, and jobs by state and by model as lists count and show them.

Revision: 0016
"""

from __future__ import annotations

from alembic import op

from batchinfer.store.online import build_index, online

revision = "0016"
down_revision: str | None = "0015"
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE bulk_acts (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    key_id UUID NOT NULL,
    actor TEXT NOT NULL,
    verb TEXT NOT NULL,
    search JSONB DEFAULT '{}' NOT NULL,
    ids UUID[] DEFAULT '{}' NOT NULL,
    up_to UUID NOT NULL,
    state TEXT DEFAULT 'queued' NOT NULL,
    total BIGINT DEFAULT '0' NOT NULL,
    done BIGINT DEFAULT '0' NOT NULL,
    skipped BIGINT DEFAULT '0' NOT NULL,
    failed BIGINT DEFAULT '0' NOT NULL,
    reasons JSONB DEFAULT '{}' NOT NULL,
    cursor UUID,
    error JSONB,
    created_at timestamptz DEFAULT now() NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT pk_bulk_acts PRIMARY KEY (id)
);
CREATE INDEX ix_bulk_acts_tenant ON bulk_acts (tenant_id, id);

DROP INDEX ix_jobs_tenant_state_before;
"""

# An interrupted build has renamed it already.
RENAME = """
DO $$ BEGIN
    IF to_regclass('ix_jobs_tenant_state_before') IS NULL THEN
        ALTER INDEX ix_jobs_tenant_state RENAME TO ix_jobs_tenant_state_before;
    END IF;
END $$
"""


def upgrade() -> None:
    with online(op.get_context()):
        op.execute(RENAME)
        build_index(op.get_bind(), "ix_jobs_tenant_state", "jobs", "tenant_id, final_state, id", "deleted_at IS NULL")
        build_index(op.get_bind(), "ix_jobs_tenant_model", "jobs", "tenant_id, model, id")
    op.execute(STATEMENTS)
