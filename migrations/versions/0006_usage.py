"""Whose usage a job is, and what results used, a day.

Revision: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision: str | None = "0005"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE jobs ADD COLUMN key_id UUID, ADD COLUMN schedule_id UUID;
ALTER TABLE documents ADD COLUMN key_id UUID;
ALTER TABLE batches ADD COLUMN key_id UUID;

CREATE TABLE usage (
    tenant_id UUID NOT NULL,
    day DATE NOT NULL,
    model TEXT NOT NULL,
    key_id UUID NOT NULL,
    schedule_id UUID NOT NULL,
    shard SMALLINT NOT NULL,
    jobs BIGINT DEFAULT '0' NOT NULL,
    prompt_tokens BIGINT DEFAULT '0' NOT NULL,
    completion_tokens BIGINT DEFAULT '0' NOT NULL,
    image_tokens BIGINT DEFAULT '0' NOT NULL,
    cached_tokens BIGINT DEFAULT '0' NOT NULL,
    images BIGINT DEFAULT '0' NOT NULL,
    device_us BIGINT DEFAULT '0' NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    CONSTRAINT pk_usage PRIMARY KEY (tenant_id, day, model, key_id, schedule_id, shard)
);

-- Of the results that are there; which key asked for them was not kept.
INSERT INTO usage (tenant_id, day, model, key_id, schedule_id, shard, jobs, prompt_tokens, completion_tokens,
    image_tokens, cached_tokens, images, device_us)
SELECT r.tenant_id, CAST(timezone('UTC', r.created_at) AS date), j.model,
    '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', 0, count(*),
    sum(coalesce(CAST(r.usage ->> 'prompt_tokens' AS bigint), 0)),
    sum(coalesce(CAST(r.usage ->> 'completion_tokens' AS bigint), 0)),
    sum(coalesce(CAST(r.usage -> 'prompt_tokens_details' ->> 'image_tokens' AS bigint), 0)),
    sum(coalesce(CAST(r.usage -> 'prompt_tokens_details' ->> 'cached_tokens' AS bigint), 0)),
    sum(coalesce(CAST(r.usage ->> 'images' AS bigint), 0)),
    sum(CAST(round(1e6 * (coalesce(CAST(r.timings ->> 'prefill' AS float), 0)
                          + coalesce(CAST(r.timings ->> 'decoding' AS float), 0))
                   / greatest(coalesce(CAST(r.timings ->> 'rows' AS float), 1), 1)) AS bigint))
FROM results r JOIN jobs j ON j.id = r.job_id
GROUP BY 1, 2, 3;
"""


def upgrade() -> None:
    op.execute(STATEMENTS)
