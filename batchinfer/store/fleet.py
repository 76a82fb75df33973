"""Models (what exists), deployments (what is wanted) and replicas (what is)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.store import revisions
from batchinfer.store.clean import as_jsonb, clean_text

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Model:
    """A model folder under its name. `state` is ready, loading, failed or stopped, from its replicas."""

    id: UUID
    name: str
    revision: str
    path: str
    facts: dict[str, Any]
    created_at: datetime
    state: str


@dataclass(frozen=True)
class Replica:
    """One model in one worker process."""

    id: UUID
    worker: str
    model: str
    revision: str
    engine: str
    device: str
    state: str
    lease_id: UUID | None
    error: dict[str, Any] | None
    memory_mib: int | None
    #: What the self-test found at load; None before it ended, and for engines without one.
    verdict: dict[str, Any] | None
    created_at: datetime
    ready_at: datetime | None
    ended_at: datetime | None
    deployment_id: UUID | None = None
    host: str | None = None
    #: A word of `domain.replicas.Wanted`.
    wanted: str = "serve"
    #: MiB by part as planned, and in all.
    plan: dict[str, Any] | None = None
    planned_mib: int | None = None
    #: Seconds of its start by phase.
    phases: dict[str, float] | None = None
    versions: dict[str, str] | None = None


# A revision that a swap chose stays the one that is served, whatever is registered beside it: a restart undoes no swap.
_REGISTER = text("""
    WITH made AS (
        INSERT INTO models AS m (id, tenant_id, name, revision, path, facts)
        VALUES (:id, :tenant_id, :name, :revision, :path, :facts)
        ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, path = excluded.path, facts = excluded.facts
        WHERE NOT EXISTS (SELECT 1 FROM deployments d
                          WHERE d.model_id = m.id AND d.stopped_at IS NULL AND d.previous_revision IS NOT NULL)
        RETURNING id)
    SELECT id FROM made UNION ALL SELECT id FROM models WHERE name = :name LIMIT 1
""")


def register_model(tx: Transaction, *, name: str, path: str, revision: str, facts: dict[str, Any]) -> UUID:
    """Make a model known, or replace what is known of it."""
    values = {"name": name, "path": path, "revision": revision, "facts": as_jsonb(facts)}
    row = tx.execute(_REGISTER, {"id": new_id(), "tenant_id": DEFAULT_TENANT, **values})
    model_id: UUID = row.scalar_one()
    source = {"kind": "folder", "path": path}
    revisions.save_revision(tx, name, revision, source=source, path=path, state="fetched", facts=facts)
    return model_id


_MODELS = """
    SELECT m.id, m.name, m.revision, m.path, m.facts, m.created_at,
        CASE WHEN bool_or(r.state = 'ready' AND r.ended_at IS NULL) THEN 'ready'
             WHEN bool_or(r.state IN ('planned', 'loading', 'verifying', 'standing_by') AND r.ended_at IS NULL)
                 THEN 'loading'
             WHEN (array_agg(r.state ORDER BY r.created_at DESC))[1] = 'failed' THEN 'failed'
             ELSE 'stopped' END AS state
    FROM models m LEFT JOIN replicas r ON r.model = m.name {where}
    GROUP BY m.id ORDER BY m.name
"""
_LIST_MODELS = text(_MODELS.format(where=""))
_FIND_MODEL = text(_MODELS.format(where="WHERE m.name = :name"))
_EXISTS = text("SELECT 1 FROM models WHERE name = :name")


def list_models(tx: Transaction) -> list[Model]:
    """Every model, by name."""
    return [Model(**row._mapping) for row in tx.execute(_LIST_MODELS)]


def find_model(tx: Transaction, name: str) -> Model | None:
    """The model of this name, or None."""
    row = tx.execute(_FIND_MODEL, {"name": clean_text(name)}).first()
    return Model(**row._mapping) if row else None


def model_exists(tx: Transaction, name: str) -> bool:
    """Whether a model of this name is known."""
    return tx.execute(_EXISTS, {"name": clean_text(name)}).first() is not None


# A worker's name belongs to one replica: an older one of that name that did not end is gone without a word.
_SUPERSEDE = text("""
    UPDATE replicas SET state = 'failed', ended_at = now()
    WHERE worker = :worker AND ended_at IS NULL AND id <> :id
""")
_SAVE_REPLICA = text("""
    INSERT INTO replicas AS r (id, tenant_id, lease_id, worker, model, revision, engine, device, state, error,
        memory_mib, verdict, phases, versions, ready_at, ended_at)
    VALUES (:id, :tenant_id, :lease_id, :worker, :model, :revision, :engine, :device, :state, :error, :memory_mib,
        :verdict, :phases, :versions,
        CASE WHEN :state = 'ready' THEN now() END, CASE WHEN :state IN ('stopped', 'failed') THEN now() END)
    ON CONFLICT (id) DO UPDATE SET
        lease_id = coalesce(excluded.lease_id, r.lease_id),
        revision = coalesce(nullif(excluded.revision, ''), r.revision),
        engine = coalesce(nullif(excluded.engine, ''), r.engine), device = excluded.device, state = excluded.state,
        error = coalesce(excluded.error, r.error), memory_mib = coalesce(excluded.memory_mib, r.memory_mib),
        verdict = coalesce(excluded.verdict, r.verdict), phases = coalesce(excluded.phases, r.phases),
        versions = coalesce(excluded.versions, r.versions),
        ready_at = coalesce(r.ready_at, excluded.ready_at), ended_at = excluded.ended_at
    WHERE r.ended_at IS NULL
""")
_LIST_REPLICAS = text("""
    SELECT id, worker, model, revision, engine, device, state, lease_id, error, memory_mib, verdict, created_at,
           ready_at, ended_at, deployment_id, host, wanted, plan, planned_mib, phases, versions
    FROM replicas WHERE ended_at IS NULL OR ended_at > now() - make_interval(secs => :ended_within_s)
    ORDER BY ended_at IS NOT NULL, worker, created_at DESC LIMIT 500
""")

_LAST_LOADS = text("""
    SELECT DISTINCT ON (model) id, worker, model, revision, engine, device, state, lease_id, error, memory_mib, verdict,
           created_at, ready_at, ended_at, deployment_id, host, wanted, plan, planned_mib, phases, versions
    FROM replicas WHERE ready_at IS NOT NULL OR state = 'failed'
    ORDER BY model, created_at DESC
""")


def list_last_loads(tx: Transaction) -> list[Replica]:
    """Of each model the newest replica whose load came to an end, well or not; by model."""
    return [Replica(**row._mapping) for row in tx.execute(_LAST_LOADS)]


def save_replica(
    tx: Transaction,
    replica_id: UUID | None = None,
    *,
    worker: str,
    model: str,
    device: str,
    state: str,
    revision: str = "",
    engine: str = "",
    lease_id: UUID | None = None,
    error: dict[str, Any] | None = None,
    memory_mib: int | None = None,
    verdict: dict[str, Any] | None = None,
    phases: dict[str, float] | None = None,
    versions: dict[str, str] | None = None,
) -> UUID:
    """Write how a replica stands; one that has ended stays ended. None makes a new one."""
    chosen = replica_id or new_id()
    if replica_id is None:
        tx.execute(_SUPERSEDE, {"worker": worker, "id": chosen})
    values = {"worker": worker, "model": model, "device": device, "state": state, "revision": revision}
    more = {"engine": engine, "lease_id": lease_id, "error": as_jsonb(error), "memory_mib": memory_mib}
    more |= {"verdict": as_jsonb(verdict), "phases": as_jsonb(phases), "versions": as_jsonb(versions)}
    tx.execute(_SAVE_REPLICA, {"id": chosen, "tenant_id": DEFAULT_TENANT, **values, **more})
    return chosen


_END_LOADING = text("""
    UPDATE replicas SET state = 'failed', ended_at = now(), error = coalesce(error, CAST(:error AS jsonb))
    WHERE worker = :worker AND lease_id IS NULL AND ended_at IS NULL
      AND created_at <= now() - make_interval(secs => :ended_ago_s)
""")


def end_loading(tx: Transaction, worker: str, error: dict[str, Any], *, ended_ago_s: float = 0.0) -> int:
    """A worker's process ended so many seconds ago: what it was loading is not loaded any more. Answers how many.

    A process that loads holds no lease yet, whose end would say the same.
    """
    values = {"worker": worker, "error": as_jsonb(error), "ended_ago_s": ended_ago_s}
    return tx.execute(_END_LOADING, values).rowcount


def list_replicas(tx: Transaction, *, ended_within_s: float = 3600) -> list[Replica]:
    """Replicas that live, then those that ended lately; at most 500."""
    return [Replica(**row._mapping) for row in tx.execute(_LIST_REPLICAS, {"ended_within_s": ended_within_s})]
