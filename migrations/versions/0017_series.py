"""Series behind the charts: how long jobs waited and ran, hours beside the minutes, gauges of queues and devices.

Revision: 0017
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision: str | None = "0016"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE minutes
    ADD COLUMN row_us BIGINT DEFAULT '0' NOT NULL,
    ADD COLUMN device_us BIGINT DEFAULT '0' NOT NULL,
    ADD COLUMN waits INTEGER[] DEFAULT '{}' NOT NULL,
    ADD COLUMN runs INTEGER[] DEFAULT '{}' NOT NULL;
CREATE INDEX ix_minutes_minute ON minutes (minute);

CREATE TABLE hours (
    tenant_id UUID NOT NULL,
    model TEXT NOT NULL,
    hour timestamptz NOT NULL,
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
    reused BIGINT DEFAULT '0' NOT NULL,
    row_us BIGINT DEFAULT '0' NOT NULL,
    device_us BIGINT DEFAULT '0' NOT NULL,
    waits INTEGER[] DEFAULT '{}' NOT NULL,
    runs INTEGER[] DEFAULT '{}' NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    CONSTRAINT pk_hours PRIMARY KEY (tenant_id, model, hour)
);
CREATE INDEX ix_hours_hour ON hours (hour);

CREATE TABLE queue_gauges (
    span_s INTEGER NOT NULL,
    at timestamptz NOT NULL,
    tenant_id UUID NOT NULL,
    model TEXT NOT NULL,
    waiting DOUBLE PRECISION NOT NULL,
    running DOUBLE PRECISION NOT NULL,
    oldest_s DOUBLE PRECISION,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    CONSTRAINT pk_queue_gauges PRIMARY KEY (span_s, at, tenant_id, model)
);

CREATE TABLE device_gauges (
    span_s INTEGER NOT NULL,
    at timestamptz NOT NULL,
    host TEXT NOT NULL,
    device TEXT NOT NULL,
    total_mib DOUBLE PRECISION,
    used_mib DOUBLE PRECISION NOT NULL,
    busy DOUBLE PRECISION NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    CONSTRAINT pk_device_gauges PRIMARY KEY (span_s, at, host, device)
);
"""


def upgrade() -> None:
    op.execute(STATEMENTS)
