"""What scheduling between users needs: limits and weights of tenants, pauses, the backlog counted.

Revision: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels = None
depends_on = None

# A claim steps from tenant to tenant within a rank: the index has the rank before the tenant. The nil UUID stands for
# all tenants together.
CHANGES = """
ALTER TABLE tenants ADD COLUMN max_jobs BIGINT;
ALTER TABLE tenants ADD COLUMN weight SMALLINT DEFAULT '1' NOT NULL;

CREATE TABLE pauses (
    id UUID NOT NULL,
    tenant_id UUID,
    model TEXT,
    actor TEXT NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_pauses PRIMARY KEY (id)
);

CREATE TABLE backlog (
    tenant_id UUID NOT NULL,
    shard SMALLINT NOT NULL,
    jobs BIGINT NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    CONSTRAINT pk_backlog PRIMARY KEY (tenant_id, shard)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

INSERT INTO backlog (tenant_id, shard, jobs)
SELECT coalesce(tenant_id, '00000000-0000-0000-0000-000000000000'), 0, count(*)
FROM queue WHERE kind <> 'render' GROUP BY ROLLUP (tenant_id);

DROP INDEX ix_queue_ready;
CREATE INDEX ix_queue_ready ON queue (kind, model, rank, tenant_id, id) WHERE state = 'queued';
"""


def upgrade() -> None:
    op.execute(CHANGES)
