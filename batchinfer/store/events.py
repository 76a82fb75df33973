"""Changes that leave a row: cancel, expire, quarantine, release, and whatever an operator does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import new_id
from batchinfer.store.clean import as_jsonb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Event:
    """One change. `subject` is the noun (job, document), `event` the state it led to, `actor` a key or a part."""

    tenant_id: UUID
    subject: str
    subject_id: UUID
    event: str
    actor: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None


_RECORD = text("""
    INSERT INTO events (id, tenant_id, subject, subject_id, event, actor, data)
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:tenants AS uuid[]), CAST(:subjects AS text[]),
        CAST(:subject_ids AS uuid[]), CAST(:events AS text[]), CAST(:actors AS text[]), CAST(:data AS jsonb[]))
""")
_LIST = text("""
    SELECT tenant_id, subject, subject_id, event, actor, data, created_at FROM events
    WHERE subject_id = :subject_id AND tenant_id = :tenant_id ORDER BY id LIMIT 1000
""")
# The subjects as the index of the fleet's events spells them.
_LIST_FLEET = text("""
    SELECT id, tenant_id, subject, subject_id, event, actor, data, created_at FROM events
    WHERE subject = ANY (ARRAY['model'::text, 'deployment'::text, 'replica'::text, 'host'::text])
      AND (CAST(:after AS uuid) IS NULL OR id < :after) AND (CAST(:subject AS text) IS NULL OR subject = :subject)
      AND (CAST(:subject_id AS uuid) IS NULL OR subject_id = :subject_id)
    ORDER BY id DESC LIMIT :limit
""")
FLEET_SUBJECTS = ("model", "deployment", "replica", "host")


@dataclass(frozen=True)
class StoredEvent:
    """A change with its id, as it was written."""

    id: UUID
    event: Event


def record(tx: Transaction, rows: Sequence[Event]) -> None:
    """Write event rows, any number in one statement."""
    if not rows:
        return
    tx.execute(
        _RECORD,
        {
            "ids": [new_id() for _ in rows],
            "tenants": [row.tenant_id for row in rows],
            "subjects": [row.subject for row in rows],
            "subject_ids": [row.subject_id for row in rows],
            "events": [row.event for row in rows],
            "actors": [row.actor for row in rows],
            "data": [as_jsonb(row.data) for row in rows],
        },
    )


def list_events(tx: Transaction, tenant_id: UUID, subject_id: UUID) -> list[Event]:
    """The events of one thing, oldest first, at most 1000."""
    rows = tx.execute(_LIST, {"tenant_id": tenant_id, "subject_id": subject_id})
    return [Event(**row._mapping) for row in rows]


def list_fleet(
    tx: Transaction,
    *,
    after: UUID | None = None,
    subject: str | None = None,
    subject_id: UUID | None = None,
    limit: int = 20,
) -> list[StoredEvent]:
    """What happened to models, deployments, replicas and hosts, newest first, below the id `after`."""
    values = {"after": after, "subject": subject, "subject_id": subject_id, "limit": limit}
    return [_as_stored(dict(row._mapping)) for row in tx.execute(_LIST_FLEET, values)]


def _as_stored(row: dict[str, Any]) -> StoredEvent:
    return StoredEvent(row.pop("id"), Event(**row))
