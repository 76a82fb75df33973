"""Files, uploads in parts, and batches, whose lines are jobs.

Revision: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision: str | None = "0003"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE files (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    blob TEXT NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz,
    deleted_at timestamptz,
    CONSTRAINT pk_files PRIMARY KEY (id)
);
CREATE INDEX ix_files_blob ON files (blob);
CREATE INDEX ix_files_expires_at ON files (expires_at) WHERE expires_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX ix_files_tenant ON files (tenant_id, id);

CREATE TABLE uploads (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    status TEXT DEFAULT 'pending' NOT NULL,
    file_id UUID,
    file_expires_s INTEGER,
    created_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT pk_uploads PRIMARY KEY (id)
);
CREATE INDEX ix_uploads_expires_at ON uploads (expires_at);

CREATE TABLE upload_parts (
    id UUID NOT NULL,
    upload_id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    size_bytes BIGINT NOT NULL,
    blob TEXT NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_upload_parts PRIMARY KEY (id),
    CONSTRAINT fk_upload_parts_upload_id FOREIGN KEY(upload_id) REFERENCES uploads (id) ON DELETE CASCADE
);
CREATE INDEX ix_upload_parts_blob ON upload_parts (blob);
CREATE INDEX ix_upload_parts_upload ON upload_parts (upload_id);

CREATE TABLE batches (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    class TEXT DEFAULT 'normal' NOT NULL,
    status TEXT DEFAULT 'validating' NOT NULL,
    endpoint TEXT NOT NULL,
    completion_window TEXT NOT NULL,
    model TEXT,
    input_file_id UUID NOT NULL,
    output_file_id UUID,
    error_file_id UUID,
    parent_id UUID,
    metadata JSONB DEFAULT '{}' NOT NULL,
    options JSONB DEFAULT '{}' NOT NULL,
    errors JSONB DEFAULT '[]' NOT NULL,
    lines_read INTEGER DEFAULT '0' NOT NULL,
    total INTEGER DEFAULT '0' NOT NULL,
    completed INTEGER DEFAULT '0' NOT NULL,
    failed INTEGER DEFAULT '0' NOT NULL,
    expired INTEGER DEFAULT '0' NOT NULL,
    cancelled INTEGER DEFAULT '0' NOT NULL,
    prompt_tokens BIGINT DEFAULT '0' NOT NULL,
    completion_tokens BIGINT DEFAULT '0' NOT NULL,
    cached_tokens BIGINT DEFAULT '0' NOT NULL,
    images BIGINT DEFAULT '0' NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz NOT NULL,
    in_progress_at timestamptz,
    finalizing_at timestamptz,
    completed_at timestamptz,
    failed_at timestamptz,
    expired_at timestamptz,
    cancelling_at timestamptz,
    cancelled_at timestamptz,
    CONSTRAINT pk_batches PRIMARY KEY (id)
);
CREATE INDEX ix_batches_live ON batches (status) WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling');
CREATE INDEX ix_batches_tenant ON batches (tenant_id, id);

ALTER TABLE jobs ADD COLUMN batch_id UUID, ADD COLUMN line INTEGER, ADD COLUMN custom_id TEXT;
CREATE INDEX ix_jobs_batch ON jobs (batch_id, line) WHERE batch_id IS NOT NULL;
"""


def upgrade() -> None:
    op.execute(TABLES)
