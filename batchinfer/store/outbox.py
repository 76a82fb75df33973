"""What is to leave the system: written with what it tells of, delivered by CPU workers as work of kind deliver.

The row's id is the event's: it stays the same however often it is delivered, so that receivers can tell a repetition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import new_id
from batchinfer.store.claims import DELIVER
from batchinfer.store.clean import as_jsonb
from batchinfer.store.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Delivery:
    """One thing to deliver. `kind` says by whom, `subject` and `subject_id` what it tells of."""

    id: UUID
    tenant_id: UUID
    kind: str
    subject: str
    subject_id: UUID
    payload: dict[str, Any]
    created_at: datetime
    #: succeeded, failed, expired or quarantined; None while it waits or is under way.
    final_state: str | None = None
    attempts: int = 0
    error: dict[str, Any] | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True)
class NewDelivery:
    """What `put` takes."""

    tenant_id: UUID
    kind: str
    subject: str
    subject_id: UUID
    payload: dict[str, Any]


_PUT = text("""
    WITH kept AS (
        INSERT INTO outbox (id, tenant_id, kind, subject, subject_id, payload, schema_version)
        SELECT *, :version FROM unnest(CAST(:ids AS uuid[]), CAST(:tenants AS uuid[]), CAST(:kinds AS text[]),
            CAST(:subjects AS text[]), CAST(:subject_ids AS uuid[]), CAST(:payloads AS jsonb[]))
        RETURNING id, tenant_id, kind
    )
    INSERT INTO queue (id, kind, subject_id, tenant_id, model, expires_at, schema_version)
    SELECT id, :deliver, id, tenant_id, kind, now() + make_interval(secs => :give_up_s), :version FROM kept
""")


def put(tx: Transaction, deliveries: Sequence[NewDelivery], *, give_up_s: float) -> list[UUID]:
    """Keep what is to be delivered, in the transaction of what it tells of; answers the ids, in order.

    What is not delivered `give_up_s` seconds later expires; its row stays.
    """
    if not deliveries:
        return []
    ids = [new_id() for _ in deliveries]
    values = {
        "ids": ids,
        "tenants": [delivery.tenant_id for delivery in deliveries],
        "kinds": [delivery.kind for delivery in deliveries],
        "subjects": [delivery.subject for delivery in deliveries],
        "subject_ids": [delivery.subject_id for delivery in deliveries],
        "payloads": [as_jsonb(delivery.payload) for delivery in deliveries],
    }
    tx.execute(_PUT, {**values, "deliver": DELIVER, "give_up_s": give_up_s, "version": SCHEMA_VERSION})
    return ids


_COLUMNS = """
    o.id, o.tenant_id, o.kind, o.subject, o.subject_id, o.payload, o.created_at, o.final_state,
    o.attempts + coalesce(q.attempt - q.crashes - q.released, 0) AS attempts, o.error, o.finished_at"""
_LOAD = text(f"""
    SELECT {_COLUMNS} FROM outbox o LEFT JOIN queue q ON q.id = o.id
    WHERE o.id = ANY (CAST(:ids AS uuid[])) AND o.final_state IS NULL
""")  # noqa: S608 - made of constants
_LIST = text(f"""
    SELECT {_COLUMNS} FROM outbox o LEFT JOIN queue q ON q.id = o.id
    WHERE o.subject_id = :subject_id AND o.tenant_id = :tenant_id ORDER BY o.id LIMIT 1000
""")  # noqa: S608 - made of constants
_FORGET = text("""
    DELETE FROM outbox WHERE id IN (
        SELECT id FROM outbox WHERE id < :before AND final_state IS NOT NULL LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


def load(tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, Delivery]:
    """What is to be delivered; what has ended or is gone is missing from the answer."""
    return {row.id: Delivery(**row._mapping) for row in tx.execute(_LOAD, {"ids": list(ids)})}


def list_deliveries(tx: Transaction, tenant_id: UUID, subject_id: UUID) -> list[Delivery]:
    """What was or is to be delivered about one thing, oldest first, at most 1000."""
    rows = tx.execute(_LIST, {"subject_id": subject_id, "tenant_id": tenant_id})
    return [Delivery(**row._mapping) for row in rows]


def forget_ended(tx: Transaction, *, before: UUID, limit: int = 10_000) -> int:
    """Drop deliveries older than an id that have ended, at most `limit`. Answers how many."""
    return tx.execute(_FORGET, {"before": before, "limit": limit}).rowcount
