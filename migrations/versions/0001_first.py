"""The first tables. Days of the partitioned ones are made by upkeep, at the start and ahead of time.

Revision: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE tenants (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_tenants PRIMARY KEY (id),
    CONSTRAINT uq_tenants_name UNIQUE (name)
);

CREATE TABLE api_keys (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    sha256 BYTEA NOT NULL,
    scopes TEXT[] NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT fk_api_keys_tenant_id FOREIGN KEY(tenant_id) REFERENCES tenants (id),
    CONSTRAINT uq_api_keys_prefix UNIQUE (prefix)
);

CREATE TABLE models (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    name TEXT NOT NULL,
    revision TEXT NOT NULL,
    path TEXT NOT NULL,
    facts JSONB DEFAULT '{}' NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_models PRIMARY KEY (id),
    CONSTRAINT uq_models_name UNIQUE (name)
);

CREATE TABLE deployments (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    model_id UUID NOT NULL,
    engine TEXT DEFAULT 'auto' NOT NULL,
    device TEXT DEFAULT 'auto' NOT NULL,
    replicas INTEGER DEFAULT '1' NOT NULL,
    class TEXT DEFAULT 'normal' NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    stopped_at timestamptz,
    CONSTRAINT pk_deployments PRIMARY KEY (id),
    CONSTRAINT fk_deployments_model_id FOREIGN KEY(model_id) REFERENCES models (id)
);

CREATE TABLE leases (
    id UUID NOT NULL,
    role TEXT NOT NULL,
    worker TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    model TEXT,
    device TEXT,
    slots INTEGER DEFAULT '0' NOT NULL,
    dead BOOLEAN DEFAULT false NOT NULL,
    info JSONB DEFAULT '{}' NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    opened_at timestamptz DEFAULT now() NOT NULL,
    heartbeat_at timestamptz DEFAULT now() NOT NULL,
    ended_at timestamptz,
    end_reason TEXT,
    CONSTRAINT pk_leases PRIMARY KEY (id)
);

CREATE TABLE replicas (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    deployment_id UUID,
    lease_id UUID,
    worker TEXT NOT NULL,
    model TEXT NOT NULL,
    revision TEXT DEFAULT '' NOT NULL,
    engine TEXT DEFAULT '' NOT NULL,
    device TEXT NOT NULL,
    state TEXT NOT NULL,
    verdict JSONB,
    error JSONB,
    memory_mib INTEGER,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    ready_at timestamptz,
    ended_at timestamptz,
    CONSTRAINT pk_replicas PRIMARY KEY (id),
    CONSTRAINT fk_replicas_deployment_id FOREIGN KEY(deployment_id) REFERENCES deployments (id)
);

CREATE TABLE jobs (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    class TEXT DEFAULT 'normal' NOT NULL,
    model TEXT NOT NULL,
    document_id UUID,
    page INTEGER,
    prompt JSONB NOT NULL,
    metadata JSONB DEFAULT '{}' NOT NULL,
    final_state TEXT,
    attempts INTEGER DEFAULT '0' NOT NULL,
    crashes INTEGER DEFAULT '0' NOT NULL,
    error JSONB,
    created_at timestamptz DEFAULT now() NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    expires_at timestamptz,
    CONSTRAINT pk_jobs PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX ix_jobs_document ON jobs (document_id, page) WHERE document_id IS NOT NULL;
CREATE INDEX ix_jobs_tenant ON jobs (tenant_id, id);
CREATE INDEX ix_jobs_tenant_state ON jobs (tenant_id, final_state, id);

CREATE TABLE results (
    job_id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    attempt INTEGER NOT NULL,
    lease_id UUID NOT NULL,
    text TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    usage JSONB NOT NULL,
    timings JSONB DEFAULT '{}' NOT NULL,
    model TEXT NOT NULL,
    revision TEXT NOT NULL,
    engine TEXT NOT NULL,
    logprobs JSONB,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_results PRIMARY KEY (job_id)
) PARTITION BY RANGE (job_id);

CREATE TABLE attempts (
    job_id UUID NOT NULL,
    number INTEGER NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    outcome TEXT NOT NULL,
    kind TEXT NOT NULL,
    lease_id UUID,
    worker TEXT,
    error JSONB,
    timings JSONB,
    started_at timestamptz,
    finished_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_attempts PRIMARY KEY (job_id, number)
) PARTITION BY RANGE (job_id);

CREATE TABLE queue (
    id UUID NOT NULL,
    kind TEXT NOT NULL,
    subject_id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    model TEXT NOT NULL,
    class TEXT DEFAULT 'normal' NOT NULL,
    rank SMALLINT DEFAULT '1' NOT NULL,
    state TEXT DEFAULT 'queued' NOT NULL,
    attempt INTEGER DEFAULT '0' NOT NULL,
    crashes INTEGER DEFAULT '0' NOT NULL,
    released INTEGER DEFAULT '0' NOT NULL,
    lease_id UUID,
    leased_at timestamptz,
    available_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_queue PRIMARY KEY (id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX ix_queue_expiry ON queue (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX ix_queue_lease ON queue (lease_id) WHERE state = 'running';
CREATE INDEX ix_queue_ready ON queue (kind, model, tenant_id, rank, id) WHERE state = 'queued';

CREATE TABLE documents (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    class TEXT DEFAULT 'normal' NOT NULL,
    model TEXT NOT NULL,
    filename TEXT,
    media_type TEXT NOT NULL,
    blob TEXT NOT NULL,
    prompt JSONB NOT NULL,
    metadata JSONB DEFAULT '{}' NOT NULL,
    pages INTEGER,
    rendered INTEGER DEFAULT '0' NOT NULL,
    error JSONB,
    created_at timestamptz DEFAULT now() NOT NULL,
    started_at timestamptz,
    rendered_at timestamptz,
    expires_at timestamptz,
    CONSTRAINT pk_documents PRIMARY KEY (id)
);
CREATE INDEX ix_documents_tenant ON documents (tenant_id, id);

CREATE TABLE blobs (
    tenant_id UUID NOT NULL,
    sha256 TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    media_type TEXT NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_blobs PRIMARY KEY (tenant_id, sha256)
);

CREATE TABLE idempotency_keys (
    tenant_id UUID NOT NULL,
    method TEXT NOT NULL,
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    request_sha256 BYTEA NOT NULL,
    resource TEXT NOT NULL,
    resource_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT pk_idempotency_keys PRIMARY KEY (tenant_id, method, route, key)
);
CREATE INDEX ix_idempotency_keys_expires_at ON idempotency_keys (expires_at);

CREATE TABLE events (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    subject TEXT NOT NULL,
    subject_id UUID NOT NULL,
    event TEXT NOT NULL,
    actor TEXT,
    data JSONB DEFAULT '{}' NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_events PRIMARY KEY (id)
);
CREATE INDEX ix_events_subject ON events (subject_id, id);

CREATE TABLE minutes (
    tenant_id UUID NOT NULL,
    model TEXT NOT NULL,
    minute timestamptz NOT NULL,
    shard SMALLINT DEFAULT '0' NOT NULL,
    submitted BIGINT DEFAULT '0' NOT NULL,
    succeeded BIGINT DEFAULT '0' NOT NULL,
    failed BIGINT DEFAULT '0' NOT NULL,
    cancelled BIGINT DEFAULT '0' NOT NULL,
    expired BIGINT DEFAULT '0' NOT NULL,
    quarantined BIGINT DEFAULT '0' NOT NULL,
    retried BIGINT DEFAULT '0' NOT NULL,
    lost BIGINT DEFAULT '0' NOT NULL,
    prompt_tokens BIGINT DEFAULT '0' NOT NULL,
    completion_tokens BIGINT DEFAULT '0' NOT NULL,
    images BIGINT DEFAULT '0' NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    CONSTRAINT pk_minutes PRIMARY KEY (tenant_id, model, minute, shard)
);

CREATE TABLE ticks (
    name TEXT NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    ticked_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_ticks PRIMARY KEY (name)
);

CREATE TABLE jobs_default PARTITION OF jobs DEFAULT;
CREATE TABLE results_default PARTITION OF results DEFAULT;
CREATE TABLE attempts_default PARTITION OF attempts DEFAULT;
"""


def upgrade() -> None:
    op.execute(TABLES)
