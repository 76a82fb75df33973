"""Runs over folders and buckets: their manifests, shards, ledger, prompt templates, schedules and reviews.

Revision: 0012
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision: str | None = "0011"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE runs (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    name TEXT,
    key_id UUID,
    schedule_id UUID,
    schedule_version INTEGER,
    instant timestamptz,
    due_at timestamptz,
    state TEXT DEFAULT 'due' NOT NULL,
    spec JSONB NOT NULL,
    recipe TEXT,
    cause JSONB,
    cursor JSONB,
    listed_at timestamptz,
    documents BIGINT DEFAULT '0' NOT NULL,
    listed_bytes BIGINT DEFAULT '0' NOT NULL,
    skipped BIGINT DEFAULT '0' NOT NULL,
    closed BIGINT DEFAULT '0' NOT NULL,
    failed BIGINT DEFAULT '0' NOT NULL,
    with_errors BIGINT DEFAULT '0' NOT NULL,
    pages_blank BIGINT DEFAULT '0' NOT NULL,
    pages_fallback BIGINT DEFAULT '0' NOT NULL,
    page_bytes BIGINT DEFAULT '0' NOT NULL,
    recent INTEGER[] DEFAULT '{}' NOT NULL,
    shards INTEGER DEFAULT '0' NOT NULL,
    files JSONB DEFAULT '{}' NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    begun_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT pk_runs PRIMARY KEY (id)
);
CREATE INDEX ix_runs_live ON runs (state) WHERE finished_at IS NULL;
CREATE INDEX ix_runs_tenant ON runs (tenant_id, id);
CREATE UNIQUE INDEX uq_runs_instant ON runs (schedule_id, instant);

CREATE TABLE shards (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    run_id UUID NOT NULL,
    number INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    files JSONB DEFAULT '[]' NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    sealed_at timestamptz,
    CONSTRAINT pk_shards PRIMARY KEY (id)
);
CREATE UNIQUE INDEX uq_shards_run ON shards (run_id, number);

CREATE TABLE ledger (
    tenant_id UUID NOT NULL,
    recipe TEXT NOT NULL,
    uri_key TEXT NOT NULL,
    document_id UUID NOT NULL,
    size_bytes BIGINT,
    stamp TEXT,
    sha256 TEXT NOT NULL,
    pages INTEGER NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_ledger PRIMARY KEY (tenant_id, recipe, uri_key)
);
CREATE INDEX ix_ledger_document_id ON ledger (document_id);
CREATE INDEX ix_ledger_sha256 ON ledger (tenant_id, recipe, sha256);

CREATE TABLE templates (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    name TEXT NOT NULL,
    version INTEGER DEFAULT '1' NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    deleted_at timestamptz,
    CONSTRAINT pk_templates PRIMARY KEY (id)
);
CREATE INDEX ix_templates_tenant ON templates (tenant_id, id);
CREATE UNIQUE INDEX uq_templates_name ON templates (tenant_id, name) WHERE deleted_at IS NULL;

CREATE TABLE template_versions (
    template_id UUID NOT NULL,
    version INTEGER NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    prompt TEXT NOT NULL,
    system TEXT,
    response_format JSONB,
    note TEXT,
    actor TEXT NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_template_versions PRIMARY KEY (template_id, version),
    CONSTRAINT fk_template_versions_template_id FOREIGN KEY(template_id) REFERENCES templates (id) ON DELETE CASCADE
);

CREATE TABLE schedules (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    name TEXT NOT NULL,
    key_id UUID,
    version INTEGER DEFAULT '1' NOT NULL,
    state TEXT DEFAULT 'enabled' NOT NULL,
    spec JSONB NOT NULL,
    last_instant timestamptz,
    next_at timestamptz,
    error JSONB,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    deleted_at timestamptz,
    CONSTRAINT pk_schedules PRIMARY KEY (id)
);
CREATE INDEX ix_schedules_next_at ON schedules (next_at) WHERE state = 'enabled' AND deleted_at IS NULL;
CREATE INDEX ix_schedules_tenant ON schedules (tenant_id, id);
CREATE UNIQUE INDEX uq_schedules_name ON schedules (tenant_id, name) WHERE deleted_at IS NULL;

CREATE TABLE reviews (
    run_id UUID NOT NULL,
    job_id UUID NOT NULL,
    number INTEGER NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    verdict TEXT,
    note TEXT,
    actor TEXT,
    golden BOOLEAN DEFAULT false NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    judged_at timestamptz,
    CONSTRAINT pk_reviews PRIMARY KEY (run_id, job_id)
);
CREATE UNIQUE INDEX uq_reviews_number ON reviews (run_id, number);

CREATE TABLE goldens (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    job_id UUID NOT NULL,
    run_id UUID,
    model TEXT NOT NULL,
    prompt JSONB NOT NULL,
    blob TEXT NOT NULL,
    answer TEXT NOT NULL,
    actor TEXT NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_goldens PRIMARY KEY (id)
);
CREATE INDEX ix_goldens_blob ON goldens (tenant_id, blob);
CREATE INDEX ix_goldens_tenant ON goldens (tenant_id, id);
CREATE UNIQUE INDEX uq_goldens_job_id ON goldens (job_id);
"""

CHANGES = """
ALTER TABLE documents
    ALTER COLUMN blob DROP NOT NULL,
    ADD COLUMN schedule_id UUID,
    ADD COLUMN run_id UUID,
    ADD COLUMN number INTEGER,
    ADD COLUMN uri TEXT,
    ADD COLUMN size_bytes BIGINT,
    ADD COLUMN stamp TEXT,
    ADD COLUMN stage TEXT,
    ADD COLUMN outcome TEXT,
    ADD COLUMN same_as UUID,
    ADD COLUMN first_line INTEGER,
    ADD COLUMN jobs INTEGER DEFAULT '0' NOT NULL,
    ADD COLUMN jobs_ended INTEGER DEFAULT '0' NOT NULL,
    ADD COLUMN jobs_failed INTEGER DEFAULT '0' NOT NULL,
    ADD COLUMN pages_blank INTEGER DEFAULT '0' NOT NULL,
    ADD COLUMN pages_fallback INTEGER DEFAULT '0' NOT NULL,
    ADD COLUMN closed_number INTEGER,
    ADD COLUMN closed_at timestamptz;
CREATE INDEX ix_documents_run ON documents (run_id, number) WHERE run_id IS NOT NULL;
CREATE INDEX ix_documents_listed ON documents (run_id, number) WHERE stage = 'listed';
CREATE INDEX ix_documents_queued ON documents (run_id) WHERE stage = 'queued';
CREATE INDEX ix_documents_same_as ON documents (same_as) WHERE same_as IS NOT NULL;
CREATE INDEX ix_documents_closed ON documents (run_id, closed_number) WHERE closed_number IS NOT NULL;

ALTER TABLE batches ALTER COLUMN input_file_id DROP NOT NULL;
ALTER TABLE batches ADD COLUMN open INTEGER DEFAULT '0' NOT NULL;
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(CHANGES)
