"""Models in revisions, hosts with a keeper, and what is wanted of each deployment and replica.

Revision: 0013
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision: str | None = "0012"
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE model_revisions (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    model_id UUID NOT NULL,
    revision TEXT NOT NULL,
    source JSONB DEFAULT '{}' NOT NULL,
    path TEXT DEFAULT '' NOT NULL,
    state TEXT DEFAULT 'registered' NOT NULL,
    files JSONB DEFAULT '[]' NOT NULL,
    size_bytes BIGINT DEFAULT '0' NOT NULL,
    fetched_bytes BIGINT DEFAULT '0' NOT NULL,
    facts JSONB DEFAULT '{}' NOT NULL,
    error JSONB,
    progress JSONB,
    created_at timestamptz DEFAULT now() NOT NULL,
    fetched_at timestamptz,
    verified_at timestamptz,
    pruned_at timestamptz,
    CONSTRAINT pk_model_revisions PRIMARY KEY (id),
    CONSTRAINT fk_model_revisions_model_id FOREIGN KEY (model_id) REFERENCES models (id)
);
CREATE UNIQUE INDEX uq_model_revisions_revision ON model_revisions (model_id, revision);
INSERT INTO model_revisions (id, tenant_id, model_id, revision, source, path, state, facts, created_at, fetched_at)
    SELECT gen_random_uuid(), tenant_id, id, revision, jsonb_build_object('kind', 'folder', 'path', path), path,
        'fetched', facts, created_at, created_at
    FROM models;

CREATE TABLE hosts (
    host TEXT NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    keeper_id UUID NOT NULL,
    devices JSONB DEFAULT '[]' NOT NULL,
    labels JSONB DEFAULT '{}' NOT NULL,
    draining BOOLEAN DEFAULT false NOT NULL,
    started_at timestamptz DEFAULT now() NOT NULL,
    heartbeat_at timestamptz DEFAULT now() NOT NULL,
    ended_at timestamptz,
    CONSTRAINT pk_hosts PRIMARY KEY (host)
);

ALTER TABLE deployments
    ADD COLUMN revision TEXT,
    ADD COLUMN previous_revision TEXT,
    ADD COLUMN next_revision TEXT,
    ADD COLUMN swap JSONB,
    ADD COLUMN dtype TEXT DEFAULT 'auto' NOT NULL,
    ADD COLUMN quantisation TEXT DEFAULT 'none' NOT NULL,
    ADD COLUMN memory_mib INTEGER,
    ADD COLUMN slots INTEGER,
    ADD COLUMN options JSONB DEFAULT '{}' NOT NULL,
    ADD COLUMN labels JSONB DEFAULT '{}' NOT NULL,
    ADD COLUMN priority INTEGER DEFAULT '0' NOT NULL,
    ADD COLUMN pinned BOOLEAN DEFAULT false NOT NULL,
    ADD COLUMN idle_s INTEGER,
    ADD COLUMN asleep BOOLEAN DEFAULT false NOT NULL,
    ADD COLUMN failures INTEGER DEFAULT '0' NOT NULL,
    ADD COLUMN next_try_at timestamptz,
    ADD COLUMN error JSONB,
    ADD COLUMN last_used_at timestamptz;

ALTER TABLE replicas
    ADD COLUMN host TEXT,
    ADD COLUMN wanted TEXT DEFAULT 'serve' NOT NULL,
    ADD COLUMN plan JSONB,
    ADD COLUMN planned_mib INTEGER,
    ADD COLUMN phases JSONB,
    ADD COLUMN versions JSONB;
CREATE INDEX ix_replicas_live ON replicas (host) WHERE ended_at IS NULL;
CREATE INDEX ix_events_fleet ON events (id)
    WHERE subject = ANY (ARRAY['model'::text, 'deployment'::text, 'replica'::text, 'host'::text]);
"""


def upgrade() -> None:
    op.execute(STATEMENTS)

