"""What placement reads and writes: living hosts, wishes and what stands, under one lock for the whole installation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.store.clean import as_jsonb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction

#: Held while replicas are placed: one who does it is enough.
_PLACING_LOCK = 7215004
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")
_ANY_HOST = text("""
    SELECT EXISTS (SELECT 1 FROM hosts
                   WHERE ended_at IS NULL AND heartbeat_at > now() - make_interval(secs => :silent_s))
        OR EXISTS (SELECT 1 FROM replicas WHERE host IS NOT NULL AND ended_at IS NULL)
""")


def try_lock(tx: Transaction) -> bool:
    """Be the one who places until the transaction's end. False where somebody else is."""
    return bool(tx.execute(_TRY_LOCK, {"key": _PLACING_LOCK}).scalar_one())


def is_anything_kept(tx: Transaction, *, silent_s: float) -> bool:
    """Whether there is a living host, or a replica that a keeper started."""
    return bool(tx.execute(_ANY_HOST, {"silent_s": silent_s}).scalar_one())


@dataclass(frozen=True)
class Kept:
    """A replica of a host's keeper that has not ended."""

    id: UUID
    deployment_id: UUID | None
    worker: str
    model: str
    revision: str
    host: str
    device: str
    state: str
    wanted: str
    lease_id: UUID | None
    planned_mib: int | None
    memory_mib: int | None
    created_at: datetime
    ready_at: datetime | None


_KEPT = text("""
    SELECT id, deployment_id, worker, model, revision, host, device, state, wanted, lease_id, planned_mib, memory_mib,
        created_at, ready_at
    FROM replicas WHERE host IS NOT NULL AND ended_at IS NULL ORDER BY id
""")


def list_kept(tx: Transaction) -> list[Kept]:
    """All that keepers hold, oldest first."""
    return [Kept(**row._mapping) for row in tx.execute(_KEPT)]


# A lease that lives says more than a host that is silent: its process answers the database.
_END_LOST = text("""
    UPDATE replicas r SET state = CASE WHEN h.ended_at IS NULL THEN 'failed' ELSE 'stopped' END, ended_at = now(),
        error = CASE WHEN h.ended_at IS NULL THEN coalesce(r.error, CAST(:error AS jsonb)) ELSE r.error END
    FROM hosts h
    WHERE h.host = r.host AND r.ended_at IS NULL
      AND (h.ended_at < now() - make_interval(secs => :grace_s)
           OR (h.ended_at IS NULL AND h.heartbeat_at < now() - make_interval(secs => :silent_s)))
      AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.id = r.lease_id AND NOT l.dead)
    RETURNING r.id
""")


def end_lost(tx: Transaction, error: dict[str, Any], *, silent_s: float, grace_s: float) -> list[UUID]:
    """End the replicas of hosts whose keeper is silent, or ended so long ago, and that hold no living lease."""
    values = {"error": as_jsonb(error), "silent_s": silent_s, "grace_s": grace_s}
    return [row.id for row in tx.execute(_END_LOST, values)]


# Work that is prepared or drawn for a model is work for it in a moment.
_IN_DEMAND = text("""
    SELECT m.name FROM unnest(CAST(:models AS text[])) AS m (name)
    WHERE EXISTS (SELECT 1 FROM queue q WHERE q.state = 'queued' AND q.kind IN ('infer', 'prepare', 'render')
                  AND q.model = m.name)
       OR EXISTS (SELECT 1 FROM queue q WHERE q.state = 'running' AND q.model = m.name)
""")
_NOTE_USED = text("""
    UPDATE deployments SET last_used_at = now()
    WHERE id = ANY (CAST(:ids AS uuid[]))
      AND (last_used_at IS NULL OR last_used_at < now() - interval '5 seconds')
""")
_LAST_MINUTE = text("""
    SELECT max(minute) + interval '1 minute' FROM minutes
    WHERE model = :model AND minute > CAST(:since AS timestamptz) - interval '1 minute'
      AND (submitted > 0 OR succeeded > 0 OR failed > 0 OR retried > 0)
""")
_SET_USED = text("UPDATE deployments SET last_used_at = :at WHERE id = :id")


def list_in_demand(tx: Transaction, models: Sequence[str]) -> set[str]:
    """Those of these models for which anything waits or runs."""
    return {row.name for row in tx.execute(_IN_DEMAND, {"models": list(models)})} if models else set()


def note_used(tx: Transaction, deployment_ids: Sequence[UUID]) -> None:
    """Their models are in use now; written every few seconds at most."""
    if deployment_ids:
        tx.execute(_NOTE_USED, {"ids": list(deployment_ids)})


def find_used_since(tx: Transaction, model: str, since: datetime) -> datetime | None:
    """The end of the last minute after `since` in which a job of a model came or ended; None where there was none.

    Between two looks at the queue a short job may come and go; the minutes have it.
    """
    found: datetime | None = tx.execute(_LAST_MINUTE, {"model": model, "since": since}).scalar_one()
    return found


def set_used(tx: Transaction, deployment_id: UUID, at: datetime) -> None:
    """When a model was last used, as found out afterwards."""
    tx.execute(_SET_USED, {"id": deployment_id, "at": at})


_FAILED_LATELY = text("""
    SELECT DISTINCT deployment_id, revision FROM replicas
    WHERE deployment_id IS NOT NULL AND state = 'failed' AND ended_at > now() - make_interval(secs => :within_s)
""")


def list_failed_lately(tx: Transaction, *, within_s: float) -> set[tuple[UUID, str]]:
    """Deployments and revisions of which a replica failed a moment ago."""
    return {(row.deployment_id, row.revision) for row in tx.execute(_FAILED_LATELY, {"within_s": within_s})}


_PLAN = text("""
    INSERT INTO replicas (id, tenant_id, deployment_id, host, worker, model, revision, device, state, wanted, plan,
        planned_mib)
    VALUES (:id, :tenant_id, :deployment_id, :host, :worker, :model, :revision, :device, 'planned', :wanted, :plan,
        :planned_mib)
""")
_WANT = text("""
    UPDATE replicas SET wanted = :wanted WHERE id = ANY (CAST(:ids AS uuid[])) AND ended_at IS NULL
      AND wanted <> :wanted AND wanted <> 'drain'
    RETURNING id
""")
_SET_ASLEEP = text(
    "UPDATE deployments SET asleep = :asleep WHERE id = ANY (CAST(:ids AS uuid[])) AND asleep <> :asleep"
)
_END_WISH = text("UPDATE deployments SET stopped_at = now() WHERE id = :id AND stopped_at IS NULL")
_SET_UNPLACED = text("""
    UPDATE deployments SET error = :error
    WHERE id = :id AND failures = 0 AND error IS DISTINCT FROM CAST(:error AS jsonb)
    RETURNING id
""")
_CLEAR_UNPLACED = text("""
    UPDATE deployments SET error = NULL
    WHERE error ->> 'code' = :code AND stopped_at IS NULL AND NOT (id = ANY (CAST(:but AS uuid[])))
""")


def plan_replica(
    tx: Transaction,
    *,
    deployment_id: UUID,
    host: str,
    worker: str,
    model: str,
    revision: str,
    device: str,
    wanted: str,
    plan: dict[str, Any] | None,
    planned_mib: int | None,
) -> UUID:
    """A replica that the host's keeper is to start."""
    replica_id = new_id()
    values = {"deployment_id": deployment_id, "host": host, "worker": worker, "model": model, "revision": revision}
    more = {"device": device, "wanted": wanted, "plan": as_jsonb(plan), "planned_mib": planned_mib}
    tx.execute(_PLAN, {"id": replica_id, "tenant_id": DEFAULT_TENANT, **values, **more})
    return replica_id


def want(tx: Transaction, replica_ids: Sequence[UUID], wanted: str) -> list[UUID]:
    """Say what replicas are to do. One that is to go is never called back. Answers those to which it is news."""
    if not replica_ids:
        return []
    return [row.id for row in tx.execute(_WANT, {"ids": list(replica_ids), "wanted": wanted})]


def set_asleep(tx: Transaction, deployment_ids: Sequence[UUID], *, asleep: bool) -> None:
    """Unloaded for being idle, or wanted again."""
    if deployment_ids:
        tx.execute(_SET_ASLEEP, {"ids": list(deployment_ids), "asleep": asleep})


def end_wish(tx: Transaction, deployment_id: UUID) -> bool:
    """Want a deployment no more. False where that is so already."""
    return tx.execute(_END_WISH, {"id": deployment_id}).rowcount == 1


def tell_unplaced(tx: Transaction, errors: dict[UUID, dict[str, Any]], code: str) -> list[UUID]:
    """Write why deployments have fewer replicas than they should, and take back what no longer holds.

    What a load said that failed stands above it. Answers those to which it is news.
    """
    told = [
        deployment_id
        for deployment_id, error in errors.items()
        if tx.execute(_SET_UNPLACED, {"id": deployment_id, "error": as_jsonb(error)}).first()
    ]
    tx.execute(_CLEAR_UNPLACED, {"code": code, "but": list(errors)})
    return told
