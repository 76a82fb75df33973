"""Acts on many jobs: asked for, carried out step by step, ended. Whoever changes one takes its row first, then its
queue row: a step holds that one only against its end, so that a lost worker's rows can be given back meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.bulk_acts import TRANSITIONS, BulkAct, BulkState, BulkVerb
from batchinfer.domain.jobs import JobClass
from batchinfer.store import endings
from batchinfer.store.claims import ACT
from batchinfer.store.clean import as_jsonb
from batchinfer.store.queue import Entry, enqueue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from sqlalchemy import Row

    from batchinfer.domain.job_search import JobSearch
    from batchinfer.store.claims import Claim
    from batchinfer.store.session import Transaction

_COLUMNS = """a.id, a.tenant_id, a.key_id, a.actor, a.verb, a.search, a.ids, a.up_to, a.state, a.total, a.done,
    a.skipped, a.failed, a.reasons, a.cursor, a.error, a.created_at, a.started_at, a.finished_at"""
_INSERT = text("""
    INSERT INTO bulk_acts (id, tenant_id, key_id, actor, verb, search, ids, up_to, total)
    VALUES (:id, :tenant_id, :key_id, :actor, :verb, :search, CAST(:ids AS uuid[]), :up_to, :total)
""")
_FIND = text(f"SELECT {_COLUMNS} FROM bulk_acts a WHERE a.id = :id AND a.tenant_id = :tenant_id")  # noqa: S608
_LIST = text(f"""
    SELECT {_COLUMNS} FROM bulk_acts a
    WHERE a.tenant_id = :tenant_id AND (CAST(:after AS uuid) IS NULL OR a.id < :after) ORDER BY a.id DESC LIMIT :limit
""")  # noqa: S608
_HOLD = text(f"""
    SELECT {_COLUMNS} FROM bulk_acts a WHERE a.id = :id AND a.state = ANY (CAST(:from_states AS text[])) FOR UPDATE
""")  # noqa: S608
_FENCE = text(f"""
    SELECT 1 FROM queue q WHERE q.id = :id AND q.kind = '{ACT}' AND q.state = 'running' AND q.attempt = :attempt
      AND q.lease_id IS NOT DISTINCT FROM CAST(:lease_id AS uuid) FOR KEY SHARE
""")  # noqa: S608 - made of constants
_ADVANCE = text("""
    UPDATE bulk_acts SET state = :to_state, cursor = coalesce(CAST(:cursor AS uuid), cursor), done = done + :done,
        skipped = skipped + :skipped, failed = failed + :failed, reasons = :reasons, error = :error,
        started_at = coalesce(started_at, now())
    WHERE id = :id
""")
_END = text("UPDATE bulk_acts SET state = :to_state, error = NULL, finished_at = now() WHERE id = :id")


def insert_act(
    tx: Transaction,
    act_id: UUID,
    *,
    tenant_id: UUID,
    key_id: UUID,
    actor: str,
    verb: BulkVerb,
    search: JobSearch,
    ids: Sequence[UUID],
    up_to: UUID,
    total: int,
) -> None:
    """Store an act and the queue row by which a CPU worker carries it out."""
    values = {
        "id": act_id, "tenant_id": tenant_id, "key_id": key_id, "actor": actor, "verb": verb.value,
        "search": as_jsonb(search.as_json()), "ids": sorted(ids), "up_to": up_to, "total": total,
    }  # fmt: skip
    tx.execute(_INSERT, values)
    enqueue(tx, [Entry(act_id, ACT, tenant_id, ACT, JobClass.NORMAL)])


def find_act(tx: Transaction, tenant_id: UUID, act_id: UUID) -> BulkAct | None:
    """A tenant's act, or None."""
    row = tx.execute(_FIND, {"id": act_id, "tenant_id": tenant_id}).first()
    return _as_act(row) if row else None


def list_acts(tx: Transaction, tenant_id: UUID, *, after: UUID | None = None, limit: int = 20) -> list[BulkAct]:
    """A tenant's acts, newest first, below the id `after`."""
    rows = tx.execute(_LIST, {"tenant_id": tenant_id, "after": after, "limit": limit})
    return [_as_act(row) for row in rows]


def hold_act(tx: Transaction, claim: Claim) -> BulkAct | None:
    """Lock an act for its next step. None where it has ended, or the claim holds it no more."""
    row = tx.execute(_HOLD, {"id": claim.subject_id, **_move("advance")}).first()
    fence = {"id": claim.id, "attempt": claim.attempt, "lease_id": claim.lease_id}
    if row is None or tx.execute(_FENCE, fence).first() is None:
        return None
    return _as_act(row)


def advance(
    tx: Transaction,
    act: BulkAct,
    *,
    cursor: UUID | None,
    done: int = 0,
    skipped: int = 0,
    failed: int = 0,
    reasons: Mapping[str, int],
    error: Mapping[str, Any] | None = None,
) -> None:
    """Note what one step did to a held act. `reasons` are all that are known by now; `error` is what it waits for."""
    values = {"cursor": cursor, "done": done, "skipped": skipped, "failed": failed}
    told = {"reasons": as_jsonb(dict(reasons)), "error": as_jsonb(error)}
    tx.execute(_ADVANCE, {"id": act.id, **_move("advance"), **values, **told})


def complete(tx: Transaction, act_id: UUID) -> None:
    """A held act has been carried out. The caller ends its queue row."""
    tx.execute(_END, {"id": act_id, **_move("complete")})


def cancel_act(tx: Transaction, tenant_id: UUID, act_id: UUID, actor: str) -> bool:
    """End an act half way; what it did stays. False where it has ended, or is not there."""
    row = tx.execute(_HOLD, {"id": act_id, **_move("cancel")}).first()
    if row is None or row.tenant_id != tenant_id:
        return False
    endings.cancel(tx, tenant_id, [act_id], kinds=(ACT,), actor=actor)
    tx.execute(_END, {"id": act_id, **_move("cancel")})
    return True


def _move(verb: str) -> dict[str, Any]:
    leaves, to = TRANSITIONS[verb]
    return {"from_states": sorted(leaves), "to_state": to.value}


def _as_act(row: Row[Any]) -> BulkAct:
    return BulkAct(**{**row._mapping, "verb": BulkVerb(row.verb), "state": BulkState(row.state), "ids": list(row.ids)})
