"""The steps of a swap, and what is asked of a deployment's replicas, each in a caller's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.store.clean import as_jsonb
from batchinfer.store.fleet import Replica

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.store.deployments import Deployment
    from batchinfer.store.session import Transaction

_COLUMNS = """
    id, worker, model, revision, engine, device, state, lease_id, error, memory_mib, verdict, created_at, ready_at,
    ended_at, deployment_id, host, wanted, plan, planned_mib, phases, versions
"""
# A swap begins with a clean slate: what hindered the loads of the old revision need not hinder the new one.
_BEGIN = text("""
    UPDATE deployments SET next_revision = :revision, failures = 0, next_try_at = NULL, error = NULL, asleep = false,
        last_used_at = now(), swap = CAST(:swap AS jsonb) || jsonb_build_object('since', now())
    WHERE id = :id AND next_revision IS NULL AND stopped_at IS NULL
""")
_NOTE = text("UPDATE deployments SET swap = swap || jsonb_build_object('state', CAST(:state AS text)) WHERE id = :id")
# The prompts go with the end: what is kept of them is how many there were, and after a switch the deployment's own.
_END = text("""
    UPDATE deployments SET next_revision = NULL,
        swap = (swap - 'golden') || CAST(:end AS jsonb) || jsonb_build_object('ended_at', now())
    WHERE id = :id
""")
_SWITCH = text("""
    UPDATE deployments SET revision = next_revision, previous_revision = :old, failures = 0, next_try_at = NULL,
        error = NULL, golden = coalesce(nullif(swap -> 'golden', '[]'), golden)
    WHERE id = :id
""")
# The model's own revision is that of its most urgent deployment, the oldest of them.
_IS_DEFINING = text("""
    SELECT 1 FROM deployments d WHERE d.id = :id AND d.id = (
        SELECT o.id FROM deployments o WHERE o.model_id = d.model_id AND o.stopped_at IS NULL
        ORDER BY o.priority DESC, o.id LIMIT 1)
""")
# The other deployments of the model go on with what they serve, which until now was the model's own.
_PIN_OTHERS = text("""
    UPDATE deployments o SET revision = m.revision FROM deployments d JOIN models m ON m.id = d.model_id
    WHERE d.id = :id AND o.model_id = d.model_id AND o.id <> d.id AND o.revision IS NULL AND o.stopped_at IS NULL
""")
_DEFINE = text("""
    UPDATE models m SET revision = v.revision, path = v.path, facts = v.facts
    FROM deployments d JOIN model_revisions v ON v.model_id = d.model_id AND v.revision = :revision
    WHERE d.id = :id AND m.id = d.model_id
""")
_LIST_NEXT = text(f"""
    SELECT {_COLUMNS} FROM replicas WHERE deployment_id = :id AND revision = :revision
      AND created_at >= CAST(:since AS timestamptz)
    ORDER BY created_at, id
""")  # noqa: S608 - made of constants
_LIST_OF = text(f"""
    SELECT {_COLUMNS} FROM replicas WHERE deployment_id = ANY (CAST(:ids AS uuid[]))
      AND (ended_at IS NULL OR ended_at > now() - make_interval(secs => :ended_within_s))
    ORDER BY ended_at IS NOT NULL, worker, created_at DESC LIMIT 1000
""")  # noqa: S608 - made of constants
_ORDER = text("""
    UPDATE replicas SET wanted = :wanted
    WHERE deployment_id = :id AND ended_at IS NULL AND wanted <> :wanted AND wanted <> 'drain'
      AND (CAST(:revision AS text) IS NULL OR (revision = :revision) = :is_of)
      AND (CAST(:states AS text[]) IS NULL OR state = ANY (CAST(:states AS text[])))
    RETURNING id
""")
_FIND_REPLICA = text(f"SELECT {_COLUMNS} FROM replicas WHERE id = :id FOR UPDATE")  # noqa: S608 - made of constants
_DRAIN_REPLICA = text("UPDATE replicas SET wanted = 'drain' WHERE id = :id AND ended_at IS NULL AND wanted <> 'drain'")


def begin(tx: Transaction, deployment_id: UUID, revision: str, swap: dict[str, Any]) -> bool:
    """Let a revision be loaded beside the one that serves. False where another swap is under way, or it is stopped."""
    values = {"id": deployment_id, "revision": revision, "swap": as_jsonb(swap)}
    return tx.execute(_BEGIN, values).rowcount == 1


def note_state(tx: Transaction, deployment_id: UUID, state: str) -> None:
    """Where a swap that goes on is."""
    tx.execute(_NOTE, {"id": deployment_id, "state": state})


def end(tx: Transaction, deployment_id: UUID, state: str, error: dict[str, Any] | None = None) -> None:
    """A swap has ended without a switch, or (after `switch`) with it."""
    tx.execute(_END, {"id": deployment_id, "end": as_jsonb({"state": state, "error": error})})


def switch(tx: Transaction, deployment: Deployment) -> None:
    """The next revision is the one that serves. The caller holds the deployment, and read `deployment` since then.

    The model's revision, path and facts are changed too where its most urgent deployment is this one.
    """
    values = {"id": deployment.id, "old": deployment.revision, "revision": deployment.next_revision}
    if tx.execute(_IS_DEFINING, values).first() is not None:
        tx.execute(_PIN_OTHERS, values)
        tx.execute(_DEFINE, values)
    tx.execute(_SWITCH, values)


_OVERDUE = text("""
    SELECT CAST(swap ->> 'within_s' AS int) FROM deployments WHERE id = :id
      AND clock_timestamp() > CAST(swap ->> 'since' AS timestamptz)
          + make_interval(secs => CAST(swap ->> 'within_s' AS float))
""")


def find_overdue(tx: Transaction, deployment: Deployment) -> int | None:
    """The seconds that the swap under way had, where they are over; None while there is some left."""
    found: int | None = tx.execute(_OVERDUE, {"id": deployment.id}).scalar_one_or_none()
    return found


def list_next(tx: Transaction, deployment: Deployment) -> list[Replica]:
    """The replicas of the next revision that were planned since its swap began, ended ones too."""
    since = (deployment.swap or {}).get("since")
    values = {"id": deployment.id, "revision": deployment.next_revision, "since": since}
    return [Replica(**row._mapping) for row in tx.execute(_LIST_NEXT, values)] if since else []


def list_replicas(tx: Transaction, ids: Sequence[UUID], *, ended_within_s: float = 3600) -> list[Replica]:
    """The replicas of deployments that live, then those that ended lately; at most 1000."""
    values = {"ids": list(ids), "ended_within_s": ended_within_s}
    return [Replica(**row._mapping) for row in tx.execute(_LIST_OF, values)] if ids else []


def order(
    tx: Transaction,
    deployment_id: UUID,
    wanted: str,
    *,
    of: str | None = None,
    but: str | None = None,
    states: Sequence[str] | None = None,
) -> list[UUID]:
    """Want something else of a deployment's replicas: those `of` a revision, of any `but` one, in some `states`, or all
    that live. One that is to go is never called back. Answers those that it was not wanted of before."""
    revision = of if of is not None else but
    values = {"id": deployment_id, "wanted": wanted, "revision": revision, "is_of": of is not None}
    more = {"states": None if states is None else list(states)}
    return list(tx.execute(_ORDER, {**values, **more}).scalars())


def lock_replica(tx: Transaction, replica_id: UUID) -> Replica | None:
    """A replica, locked until the transaction's end, or None."""
    row = tx.execute(_FIND_REPLICA, {"id": replica_id}).first()
    return Replica(**row._mapping) if row else None


def drain_replica(tx: Transaction, replica_id: UUID) -> bool:
    """Let one replica end what runs, and end. False where that was wanted before, or it has ended."""
    return tx.execute(_DRAIN_REPLICA, {"id": replica_id}).rowcount == 1
