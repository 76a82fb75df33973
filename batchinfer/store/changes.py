"""Changes of state, written by the transaction that makes them, and read in an order that loses none.

Transactions do not commit in the order of any number that is drawn before. So each row carries its transaction's id,
and a reader stops below the oldest transaction that is still under way: what lies there is complete and stays as it is.
Nothing is written by a relaxed transaction: a crash of the server could take back what was read, and give its id anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

from batchinfer.domain.changes import MOST_PLACES, Change, Position
from batchinfer.store.claims import INFER, PREPARE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from batchinfer.store.session import Transaction

#: The tenant of the row that says up to where rows were dropped.
_NOBODY = UUID(int=0)
_TELL = text("""
    INSERT INTO changes (xid, tenant_id, subject, state, ids)
    VALUES (CAST(CAST(pg_current_xact_id() AS text) AS bigint), :tenant_id, 'job', :state, CAST(:ids AS uuid[]))
""")


def tell_jobs(tx: Transaction, rows: Iterable[tuple[UUID, str, UUID]]) -> None:
    """Write what became of jobs: (tenant, state, job). A row for all of a tenant that came into the same state."""
    groups: dict[tuple[UUID, str], list[UUID]] = {}
    for tenant_id, state, job_id in rows:
        groups.setdefault((tenant_id, state), []).append(job_id)
    for (tenant_id, state), ids in groups.items():
        for start in range(0, len(ids), MOST_PLACES):
            tx.execute(_TELL, {"tenant_id": tenant_id, "state": state, "ids": ids[start : start + MOST_PLACES]})


def name_waiting(kind: str) -> str | None:
    """The state of a job whose queue row of this kind waits; None: it is no job's."""
    return {INFER: "queued", PREPARE: "preparing"}.get(kind)


@dataclass(frozen=True)
class Reach:
    """How far changes can be read now: behind `floor`, which was dropped, up to `horizon`. `next_xid`: no transaction
    has had this id or a later one."""

    floor: int
    horizon: int
    next_xid: int


_BELOW = "xid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
# The horizon is that of a change: its commit is on the disk, so that no later transaction ever has its id.
_REACH = text(f"""
    SELECT coalesce((SELECT xid FROM changes WHERE tenant_id = :nobody ORDER BY xid DESC LIMIT 1), 0) AS floor,
           coalesce((SELECT xid FROM changes WHERE {_BELOW} ORDER BY xid DESC LIMIT 1), 0) AS horizon,
           CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next_xid
""")  # noqa: S608 - made of constants
# Rows come in the order of the index; only within a row are places sorted.
_LIST = text("""
    SELECT c.xid, c.seq, place, c.subject, subject_id, c.state, c.created_at
    FROM changes c, LATERAL unnest(c.ids) WITH ORDINALITY AS one (subject_id, place)
    WHERE c.tenant_id = :tenant_id AND (c.xid, c.seq) >= (:xid, :seq) AND c.xid <= :horizon
      AND (c.xid > :xid OR c.seq > :seq OR place > :place)
    ORDER BY c.xid, c.seq, place LIMIT :limit
""")


def find_reach(tx: Transaction) -> Reach:
    """How far changes can be read now."""
    return Reach(**tx.execute(_REACH, {"nobody": _NOBODY}).one()._mapping)


def list_changes(tx: Transaction, tenant_id: UUID, after: Position, horizon: int, *, limit: int) -> list[Change]:
    """A tenant's changes behind `after`, up to the transaction `horizon` that `find_reach` answered before."""
    values = {"tenant_id": tenant_id, "horizon": horizon, "limit": limit, **vars(after)}
    return [
        Change(Position(row.xid, row.seq, row.place), row.subject, row.subject_id, row.state, row.created_at)
        for row in tx.execute(_LIST, values)
    ]


# Whole transactions from the oldest on, so that everything behind the floor is there.
_DROP = text("""
    WITH head AS MATERIALIZED (SELECT xid, created_at FROM changes ORDER BY xid, seq LIMIT :limit),
    bound AS (
        SELECT coalesce((SELECT min(xid) FROM head WHERE created_at >= now() - CAST(:age AS interval)),
                        (SELECT max(xid) FROM head)) AS xid),
    gone AS (DELETE FROM changes c USING bound b WHERE c.xid < b.xid RETURNING c.xid)
    INSERT INTO changes (xid, tenant_id, subject, state, ids)
    SELECT max(xid), :nobody, 'floor', '', '{}' FROM gone HAVING count(*) > 0
    RETURNING (SELECT count(*) FROM gone)
""")


def drop_changes(tx: Transaction, age: timedelta, *, limit: int = 50_000) -> int:
    """Drop changes older than that, at most `limit`. Answers how many rows."""
    return tx.execute(_DROP, {"age": age, "nobody": _NOBODY, "limit": limit}).scalar() or 0
