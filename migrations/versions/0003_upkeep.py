"""What upkeep and what leaves the system need.

Revision: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision: str | None = "0002"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE queue ADD COLUMN suspected INTEGER DEFAULT '0' NOT NULL;
UPDATE queue SET suspected = crashes WHERE crashes > 0;

ALTER TABLE blobs ADD COLUMN used_at timestamptz DEFAULT now() NOT NULL;
CREATE INDEX ix_blobs_used_at ON blobs (used_at);

-- Pictures made from others had no row of their own.
INSERT INTO blobs (tenant_id, sha256, size_bytes, media_type)
SELECT DISTINCT ON (1, 2) j.tenant_id, image -> 'normal' ->> 'sha256', 0, coalesce(image -> 'normal' ->> 'media_type', '')
FROM jobs j, jsonb_path_query(j.prompt, '$.images[*]') AS image
WHERE image -> 'normal' ->> 'sha256' IS NOT NULL
ON CONFLICT DO NOTHING;

CREATE INDEX ix_jobs_finished_at ON jobs USING brin (finished_at);
CREATE INDEX ix_results_created_at ON results USING brin (created_at);
CREATE INDEX ix_attempts_finished_at ON attempts USING brin (finished_at);

CREATE TABLE outbox (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    subject_id UUID NOT NULL,
    payload JSONB DEFAULT '{}' NOT NULL,
    final_state TEXT,
    attempts INTEGER DEFAULT '0' NOT NULL,
    error JSONB,
    created_at timestamptz DEFAULT now() NOT NULL,
    finished_at timestamptz,
    CONSTRAINT pk_outbox PRIMARY KEY (id)
);
CREATE INDEX ix_outbox_subject ON outbox (subject_id, id);
"""


def upgrade() -> None:
    op.execute(STATEMENTS)
