"""What is to leave the system: written with what it tells of, delivered by CPU workers as work of kind deliver.

The row's id stays the same however often it is delivered, so that receivers can tell a repetition; they know a webhook
by its event's id, which is in the payload.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import Attempt
from batchinfer.store.claims import DELIVER
from batchinfer.store.clean import as_jsonb
from batchinfer.store.horizons import with_horizons
from batchinfer.store.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.horizons import Horizons
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
    #: Of a webhook: where to.
    endpoint_id: UUID | None = None
    #: While it waits: when it is tried next.
    next_at: datetime | None = None
    #: Of what it tells of, where that is a job or a batch.
    trace: str | None = None


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
    o.attempts + coalesce(q.attempt - q.crashes - q.released, 0) AS attempts, o.error, o.finished_at, o.endpoint_id,
    CASE q.state WHEN 'queued' THEN q.available_at END AS next_at"""
_LOAD = text(f"""
    SELECT {_COLUMNS}, CASE o.subject WHEN 'job' THEN (SELECT trace FROM jobs WHERE id = o.subject_id)
        WHEN 'batch' THEN (SELECT trace FROM batches WHERE id = o.subject_id)
        WHEN 'run' THEN (SELECT trace FROM batches WHERE id = o.subject_id) END AS trace
    FROM outbox o LEFT JOIN queue q ON q.id = o.id
    WHERE o.id = ANY (CAST(:ids AS uuid[])) AND o.final_state IS NULL
""")  # noqa: S608 - made of constants
_LIST = text(f"""
    SELECT {_COLUMNS} FROM outbox o LEFT JOIN queue q ON q.id = o.id
    WHERE o.subject_id = :subject_id AND o.tenant_id = :tenant_id ORDER BY o.id LIMIT 1000
""")  # noqa: S608 - made of constants
_FORGET = with_horizons("""
    DELETE FROM outbox WHERE id IN (
        SELECT id FROM outbox o WHERE OVER(o.id) AND final_state IS NOT NULL LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


def load(tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, Delivery]:
    """What is to be delivered; what has ended or is gone is missing from the answer."""
    return {row.id: Delivery(**row._mapping) for row in tx.execute(_LOAD, {"ids": list(ids)})}


def list_deliveries(tx: Transaction, tenant_id: UUID, subject_id: UUID) -> list[Delivery]:
    """What was or is to be delivered about one thing, oldest first, at most 1000."""
    rows = tx.execute(_LIST, {"subject_id": subject_id, "tenant_id": tenant_id})
    return [Delivery(**row._mapping) for row in rows]


_OF_ENDPOINT = "WHERE o.endpoint_id = :endpoint_id AND o.tenant_id = :tenant_id"
_FIND = text(f"""
    SELECT {_COLUMNS} FROM outbox o LEFT JOIN queue q ON q.id = o.id {_OF_ENDPOINT} AND o.id = :id
""")  # noqa: S608 - made of constants
# Its tries are numbered on; what is waiting or under way already is only called to be tried now.
_AGAIN = text(f"""
    WITH freed AS (
        UPDATE outbox o SET final_state = NULL, finished_at = NULL, error = NULL
        {_OF_ENDPOINT} AND o.id = :id AND o.final_state IS NOT NULL
        RETURNING o.id, o.tenant_id, o.kind, o.schema_version
    )
    INSERT INTO queue (id, kind, subject_id, tenant_id, model, attempt, released, expires_at, schema_version)
    SELECT f.id, :deliver, f.id, f.tenant_id, f.kind, a.last, a.last, now() + make_interval(secs => :give_up_s),
           greatest(f.schema_version, :version)
    FROM freed f, LATERAL (SELECT coalesce(max(number), 0) AS last FROM attempts WHERE job_id = f.id) AS a
    RETURNING id
""")  # noqa: S608 - made of constants
_NOW = text(f"""
    UPDATE queue q SET available_at = now() FROM outbox o {_OF_ENDPOINT} AND o.id = :id AND q.id = o.id
      AND q.kind = :deliver AND q.state = 'queued'
""")  # noqa: S608 - made of constants


def find_of_endpoint(tx: Transaction, tenant_id: UUID, endpoint_id: UUID, delivery_id: UUID) -> Delivery | None:
    """A delivery to this endpoint, or None."""
    values = {"endpoint_id": endpoint_id, "tenant_id": tenant_id, "id": delivery_id}
    row = tx.execute(_FIND, values).first()
    return Delivery(**row._mapping) if row else None


def list_of_endpoint(
    tx: Transaction, tenant_id: UUID, endpoint_id: UUID, *, after: UUID | None = None, limit: int = 20
) -> list[Delivery]:
    """The deliveries to an endpoint, newest first, beginning below the id `after`."""
    bound = "AND o.id < :after" if after else ""
    statement = text(f"""
        SELECT {_COLUMNS} FROM outbox o LEFT JOIN queue q ON q.id = o.id {_OF_ENDPOINT} {bound}
        ORDER BY o.id DESC LIMIT :limit
    """)  # noqa: S608 - made of constants
    cursor = {"after": after} if after else {}
    values = {"endpoint_id": endpoint_id, "tenant_id": tenant_id, "limit": limit, **cursor}
    return [Delivery(**row._mapping) for row in tx.execute(statement, values)]


_TRIES = text("""
    SELECT job_id, number, outcome, kind, worker, started_at, finished_at, error, timings FROM attempts
    WHERE job_id = ANY (CAST(:ids AS uuid[])) ORDER BY job_id, number
""")


def list_tries(tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, list[Attempt]]:
    """The tries of deliveries that have ended, oldest first; a delivery without any is missing from the answer."""
    found: dict[UUID, list[Attempt]] = {}
    for row in tx.execute(_TRIES, {"ids": list(ids)}):
        values = dict(row._mapping)
        found.setdefault(values.pop("job_id"), []).append(Attempt(**values))
    return found


def deliver_again(tx: Transaction, delivery: Delivery, *, give_up_s: float) -> None:
    """Try a delivery to an endpoint once more: one that has ended as if anew, one that waits now."""
    values = {
        "endpoint_id": delivery.endpoint_id, "tenant_id": delivery.tenant_id, "id": delivery.id, "deliver": DELIVER,
    }  # fmt: skip
    if tx.execute(_AGAIN, {**values, "give_up_s": give_up_s, "version": SCHEMA_VERSION}).first() is None:
        tx.execute(_NOW, values)


def forget_ended(tx: Transaction, *, before: Horizons, limit: int = 10_000) -> int:
    """Drop deliveries older than an id that have ended, at most `limit`. Answers how many."""
    return tx.execute(_FORGET, {**before.values, "limit": limit}).rowcount
