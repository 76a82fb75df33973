"""Changes of state that users may follow.

Revision: 0008
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision: str | None = "0007"
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE changes (
    xid BIGINT NOT NULL,
    seq BIGINT GENERATED ALWAYS AS IDENTITY,
    tenant_id UUID NOT NULL,
    schema_version SMALLINT DEFAULT 1 NOT NULL,
    subject TEXT NOT NULL,
    state TEXT NOT NULL,
    ids UUID[] NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_changes PRIMARY KEY (xid, seq)
);
CREATE INDEX ix_changes_tenant ON changes (tenant_id, xid, seq);

-- A batch changes its state in many places, and rarely: whoever does it, it is told.
CREATE FUNCTION tell_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO changes (xid, tenant_id, subject, state, ids)
    VALUES (CAST(CAST(pg_current_xact_id() AS text) AS bigint), NEW.tenant_id, 'batch', NEW.status, ARRAY[NEW.id]);
    RETURN NULL;
END $$;
CREATE TRIGGER tell_new_batch AFTER INSERT ON batches FOR EACH ROW EXECUTE FUNCTION tell_batch();
CREATE TRIGGER tell_batch AFTER UPDATE OF status ON batches FOR EACH ROW
WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION tell_batch();
"""


def upgrade() -> None:
    op.execute(STATEMENTS)
