"""What the page of one job reads beside the job: who answered it, with which versions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Answerer:
    """The worker that wrote a result. `versions` of its engine and the libraries under it, where they are known."""

    worker: str
    host: str
    device: str | None
    versions: dict[str, str] = field(default_factory=dict)


_FIND = text("""
    SELECT l.worker, l.host, l.device, p.versions FROM results r JOIN leases l ON l.id = r.lease_id
    LEFT JOIN LATERAL (SELECT versions FROM replicas WHERE lease_id = r.lease_id ORDER BY created_at DESC LIMIT 1) AS p
        ON true
    WHERE r.job_id = :job_id AND r.tenant_id = :tenant_id AND r.reused_from IS NULL
""")


def find_answerer(tx: Transaction, tenant_id: UUID, job_id: UUID) -> Answerer | None:
    """Who answered a tenant's job; None where nobody did, or its worker is no longer known."""
    row = tx.execute(_FIND, {"job_id": job_id, "tenant_id": tenant_id}).first()
    if row is None:
        return None
    return Answerer(row.worker, row.host, row.device, {str(k): str(v) for k, v in (row.versions or {}).items()})
