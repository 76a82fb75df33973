"""Which models' weights are to be in a host's page cache before a schedule's next instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

if TYPE_CHECKING:
    from datetime import datetime

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Warmable:
    """A revision's folder that a schedule is about to need on a host, at `next_at`."""

    schedule_id: UUID
    model: str
    revision: str
    path: str
    next_at: datetime


# A host needs the models that it holds, and of those that nobody holds now (idle, between two loads) the ones that it
# held last.
_LIST = text("""
    SELECT DISTINCT s.id AS schedule_id, m.name AS model, coalesce(d.revision, m.revision) AS revision,
        coalesce(nullif(v.path, ''), m.path) AS path, s.next_at
    FROM schedules s JOIN models m ON m.name = s.spec #>> '{pipeline,model}'
        OR s.spec #> '{pipeline,ladder}' @> jsonb_build_array(jsonb_build_object('model', m.name))
    JOIN deployments d ON d.model_id = m.id AND d.stopped_at IS NULL
    LEFT JOIN model_revisions v ON v.model_id = m.id AND v.revision = coalesce(d.revision, m.revision)
    WHERE s.state = 'enabled' AND s.deleted_at IS NULL AND s.next_at > now()
      AND s.next_at <= now() + make_interval(secs => :before_s) AND coalesce(nullif(v.path, ''), m.path) <> ''
      AND :host = ANY (coalesce(
          (SELECT array_agg(r.host) FROM replicas r WHERE r.deployment_id = d.id AND r.ended_at IS NULL),
          (SELECT ARRAY[r.host] FROM replicas r WHERE r.deployment_id = d.id ORDER BY r.created_at DESC LIMIT 1)))
    ORDER BY s.next_at, model
""")


def list_warmable(tx: Transaction, host: str, *, before_s: float) -> list[Warmable]:
    """What schedules that fire within so many seconds need on a host, the soonest first."""
    return [Warmable(**row._mapping) for row in tx.execute(_LIST, {"host": host, "before_s": before_s})]
