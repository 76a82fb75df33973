"""The audit log, and a key's own rate.

Revision: 0011
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision: str | None = "0010"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE audit (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    actor_tenant_id UUID NOT NULL,
    actor TEXT NOT NULL,
    key_id UUID,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    data JSONB DEFAULT '{}' NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_audit PRIMARY KEY (id)
);
CREATE INDEX ix_audit_tenant ON audit (tenant_id, id);

ALTER TABLE api_keys ADD COLUMN requests_per_minute INTEGER;
CREATE INDEX ix_api_keys_tenant ON api_keys (tenant_id, id);
"""


def upgrade() -> None:
    op.execute(TABLES)
