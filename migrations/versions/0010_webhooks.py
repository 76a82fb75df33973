"""Webhook endpoints, and which of them a delivery goes to.

Revision: 0010
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision: str | None = "0009"
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE webhook_endpoints (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    name TEXT NOT NULL,
    url TEXT NOT NULL,
    event_types TEXT[] NOT NULL,
    secret TEXT NOT NULL,
    old_secret TEXT,
    old_secret_until timestamptz,
    give_up_s INTEGER NOT NULL,
    failures INTEGER DEFAULT '0' NOT NULL,
    failing_since timestamptz,
    last_error JSONB,
    held_until timestamptz,
    disabled_at timestamptz,
    disabled_reason TEXT,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_webhook_endpoints PRIMARY KEY (id),
    CONSTRAINT fk_webhook_endpoints_tenant_id FOREIGN KEY(tenant_id) REFERENCES tenants (id)
);
CREATE INDEX ix_webhook_endpoints_tenant ON webhook_endpoints (tenant_id, id);

ALTER TABLE outbox ADD COLUMN endpoint_id UUID;
CREATE INDEX ix_outbox_endpoint ON outbox (endpoint_id, id) WHERE endpoint_id IS NOT NULL;
CREATE INDEX ix_outbox_waiting ON outbox (endpoint_id) WHERE endpoint_id IS NOT NULL AND final_state IS NULL;
"""


def upgrade() -> None:
    op.execute(STATEMENTS)
