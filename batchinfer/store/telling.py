"""What ended is told of in the transaction that ends it: a delivery for each endpoint that wants to hear of it.

Nothing is announced: whoever delivers looks by himself within `poll_s`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import BATCH, JOB, RESPONSE, RUN, new_id, show_id
from batchinfer.domain.jobs import JobState
from batchinfer.domain.webhooks import find_response_type, make_event
from batchinfer.store.claims import DELIVER, INFER, PREPARE, Ended
from batchinfer.store.clean import as_jsonb
from batchinfer.store.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from uuid import UUID

    from batchinfer.store.session import Transaction

#: The kind of delivery that goes to an endpoint.
WEBHOOK = "webhook"

_WHO = text("""
    SELECT id, tenant_id, event_types, now() AS now FROM webhook_endpoints
    WHERE tenant_id = ANY (CAST(:tenants AS uuid[])) ORDER BY id
""")
_TELL = text("""
    WITH given AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:endpoints AS uuid[]), CAST(:subjects AS text[]),
            CAST(:subject_ids AS uuid[]), CAST(:payloads AS jsonb[]))
        AS g (id, endpoint_id, subject, subject_id, payload)),
    kept AS (
        INSERT INTO outbox (id, tenant_id, kind, subject, subject_id, payload, endpoint_id, schema_version)
        SELECT g.id, e.tenant_id, :kind, g.subject, g.subject_id, g.payload, e.id, :version
        FROM given g JOIN webhook_endpoints e ON e.id = g.endpoint_id
        RETURNING id, tenant_id, endpoint_id)
    INSERT INTO queue (id, kind, subject_id, tenant_id, model, available_at, expires_at, schema_version)
    SELECT k.id, :deliver, k.id, k.tenant_id, :kind, greatest(now(), e.held_until),
           now() + make_interval(secs => e.give_up_s), :version
    FROM kept k JOIN webhook_endpoints e ON e.id = k.endpoint_id
    RETURNING id
""")

_REUSED = text("""
    SELECT j.id, j.tenant_id, j.model, j.document_id, r.finish_reason
    FROM jobs j JOIN results r ON r.job_id = j.id
    WHERE j.id = ANY (CAST(:ids AS uuid[])) AND j.batch_id IS NULL
      AND EXISTS (SELECT 1 FROM webhook_endpoints w WHERE w.tenant_id = j.tenant_id)
    ORDER BY j.id
""")


@dataclass(frozen=True)
class Happening:
    """Something that ended. `subject` is job, batch or run; `shown_id` is how users see its id; `data` goes with it."""

    tenant_id: UUID
    event_type: str
    subject: str
    subject_id: UUID
    shown_id: str
    data: dict[str, Any] = field(default_factory=dict)


def tell(tx: Transaction, happenings: Sequence[Happening], *, only: UUID | None = None) -> list[UUID]:
    """Write a delivery for each happening and endpoint that wants it; `only` is one endpoint, asked or not.

    Answers the ids of the deliveries.
    """
    if not happenings:
        return []
    who = tx.execute(_WHO, {"tenants": sorted({one.tenant_id for one in happenings})}).all()
    columns: dict[str, list[Any]] = {
        name: [] for name in ("ids", "endpoints", "subjects", "subject_ids", "payloads")
    }  # fmt: skip
    for happening in happenings:
        event_id = new_id()
        for endpoint in who:
            wants = happening.event_type in endpoint.event_types if only is None else endpoint.id == only
            if wants and endpoint.tenant_id == happening.tenant_id:
                event = make_event(event_id, happening.event_type, happening.shown_id, endpoint.now, happening.data)
                columns["ids"].append(new_id())
                columns["endpoints"].append(endpoint.id)
                columns["subjects"].append(happening.subject)
                columns["subject_ids"].append(happening.subject_id)
                columns["payloads"].append(as_jsonb(event))
    if not columns["ids"]:
        return []
    values = {**columns, "kind": WEBHOOK, "deliver": DELIVER, "version": SCHEMA_VERSION}
    return list(tx.execute(_TELL, values).scalars())


_IS_RUN = text("SELECT 1 FROM runs WHERE id = :id")


def tell_of_batch(tx: Transaction, tenant_id: UUID, batch_id: UUID, status: str) -> None:
    """A batch has ended as `status`, and with it the run that it belongs to."""
    tell(tx, [Happening(tenant_id, f"batch.{status}", "batch", batch_id, show_id(BATCH, batch_id))])
    if tx.execute(_IS_RUN, {"id": batch_id}).first() is not None:
        tell_of_run(tx, tenant_id, batch_id, status)


def tell_of_run(tx: Transaction, tenant_id: UUID, run_id: UUID, status: str) -> None:
    """A run has ended as `status`, skipped and missed among them."""
    tell(tx, [Happening(tenant_id, f"run.{status}", "run", run_id, show_id(RUN, run_id))])


def tell_of_jobs(tx: Transaction, ended: Sequence[Ended], finishes: Mapping[UUID, str] | None = None) -> None:
    """Jobs have ended, those that succeeded with these finish reasons. A batch tells of its lines itself."""
    heard = [row for row in ended if row.heard and row.kind in (INFER, PREPARE) and row.batch_id is None]
    tell(tx, [happening for row in heard for happening in _happen(row, (finishes or {}).get(row.id))])


def tell_of_reused(tx: Transaction, ids: Sequence[UUID]) -> None:
    """Jobs have ended with the answers of others."""
    rows = tx.execute(_REUSED, {"ids": list(ids)}).all() if ids else []
    ended = [
        Ended(row.id, INFER, row.id, row.tenant_id, row.model, JobState.SUCCEEDED, held=False, heard=True,
              document_id=row.document_id)
        for row in rows
    ]  # fmt: skip
    tell_of_jobs(tx, ended, {row.id: row.finish_reason for row in rows})


def _happen(row: Ended, finish_reason: str | None) -> Iterator[Happening]:
    job_id = row.subject_id
    yield Happening(row.tenant_id, f"job.{row.state.value}", "job", job_id, show_id(JOB, job_id))
    if not row.is_page:
        event_type = find_response_type(JobState(row.state), finish_reason)
        yield Happening(row.tenant_id, event_type, "job", job_id, show_id(RESPONSE, job_id))
