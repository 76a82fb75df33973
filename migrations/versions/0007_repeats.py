"""Jobs that repeat others, jobs that were deleted, and which blobs a job refers to.

Revision: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision: str | None = "0006"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE jobs ADD COLUMN origin_id UUID, ADD COLUMN retry_id UUID, ADD COLUMN deleted_at timestamptz;
ALTER TABLE blobs ADD COLUMN erase_at timestamptz;
CREATE INDEX ix_blobs_erase_at ON blobs (erase_at) WHERE erase_at IS NOT NULL;
CREATE INDEX ix_documents_blob ON documents (tenant_id, blob);

CREATE TABLE job_blobs (
    job_id UUID NOT NULL,
    sha256 TEXT NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    CONSTRAINT pk_job_blobs PRIMARY KEY (job_id, sha256)
) PARTITION BY RANGE (job_id);
CREATE INDEX ix_job_blobs_blob ON job_blobs (tenant_id, sha256);
"""

# The days that are there, so that what they hold need not lie in the default table.
DAYS = """
DO $$
DECLARE day RECORD;
BEGIN
    FOR day IN
        SELECT replace(c.relname, 'jobs_', 'job_blobs_') AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = CAST('jobs' AS regclass)
    LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF job_blobs %s', day.name, day.bounds);
    END LOOP;
    IF to_regclass('job_blobs_default') IS NULL THEN
        CREATE TABLE job_blobs_default PARTITION OF job_blobs DEFAULT;
    END IF;
END $$;
"""

FILL = """
INSERT INTO job_blobs (job_id, sha256, tenant_id)
SELECT j.id, name #>> '{}', j.tenant_id
FROM jobs j, LATERAL (
    SELECT jsonb_path_query(j.prompt, '$.images[*].sha256')
    UNION SELECT jsonb_path_query(j.prompt, '$.images[*].normal.sha256')) AS found (name)
WHERE jsonb_typeof(name) = 'string'
ON CONFLICT DO NOTHING;
"""


def upgrade() -> None:
    op.execute(STATEMENTS)
    op.execute(DAYS)
    op.execute(FILL)
