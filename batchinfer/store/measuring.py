"""What a tenant's own jobs of a model took lately, from the minutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Measured:
    """Sums over the minutes of a day in which the model answered jobs, and the jobs that wait or run now."""

    jobs: int
    minutes: int
    prompt_tokens: int
    completion_tokens: int
    waiting: int


_MEASURE = text("""
    SELECT CAST(coalesce(sum(succeeded - reused), 0) AS bigint) AS jobs, count(DISTINCT minute) AS minutes,
           CAST(coalesce(sum(prompt_tokens), 0) AS bigint) AS prompt_tokens,
           CAST(coalesce(sum(completion_tokens), 0) AS bigint) AS completion_tokens,
           (SELECT count(*) FROM queue WHERE tenant_id = :tenant_id AND model = :model
            AND kind IN ('infer', 'prepare')) AS waiting
    FROM minutes
    WHERE tenant_id = :tenant_id AND model = :model AND minute > now() - interval '1 day' AND succeeded > reused
""")


def measure(tx: Transaction, tenant_id: UUID, model: str) -> Measured:
    """What the tenant's jobs of this model took in the last day."""
    return Measured(**tx.execute(_MEASURE, {"tenant_id": tenant_id, "model": model}).one()._mapping)
