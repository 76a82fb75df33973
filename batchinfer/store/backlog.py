"""How many jobs wait or run, of a tenant and of all, counted in the transactions that submit and end them.

A submission is admitted within the transaction of its insert: it takes its tenant's lock and reads the count. Far from
the limit the lock is shared and nobody waits. Near it each takes the lock alone, and so reads what all before it have
inserted: the limit is exact. Far is a tenth of the limit, which holds as many small submissions as can be under way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.store.session import Transaction

#: Stands for all tenants together.
EVERYBODY = UUID(int=0)
#: Submissions that can be under way at once without passing a limit. With more, what is over may pass it.
UNDER_WAY = 100
#: The part of a limit that is kept for them: one in so many.
_KEPT = 10
#: First keys of the advisory locks of tenants and of everybody; the second is made of the id.
_TENANT_LOCK, _EVERYBODY_LOCK = 7215010, 7215011
#: As in `minutes`: sessions count in rows of their own.
_SHARDS = 32
_RATE_MINUTES = 5

_ADD = text(f"""
    INSERT INTO backlog (tenant_id, shard, jobs)
    SELECT tenant_id, pg_backend_pid() % {_SHARDS}, jobs
    FROM unnest(CAST(:tenants AS uuid[]), CAST(:jobs AS bigint[])) AS added (tenant_id, jobs)
    ORDER BY tenant_id
    ON CONFLICT (tenant_id, shard) DO UPDATE SET jobs = backlog.jobs + excluded.jobs
""")  # noqa: S608 - made of constants


def count_jobs(tx: Transaction, changes: Mapping[UUID, int]) -> None:
    """Count jobs that came (above zero) and ended (below), by tenant; among the last statements of a transaction."""
    rows = {tenant_id: number for tenant_id, number in changes.items() if number}
    if not rows:
        return
    rows[EVERYBODY] = sum(rows.values())
    tx.execute(_ADD, {"tenants": list(rows), "jobs": list(rows.values())})


@dataclass(frozen=True)
class Room:
    """Jobs that wait or run, and the most that may; a tenant's, or with `tenant_id` EVERYBODY all."""

    tenant_id: UUID
    jobs: int
    limit: int

    def fits(self, number: int) -> bool:
        """Whether so many more may come."""
        return self.jobs + number <= self.limit

    def is_ample(self, number: int) -> bool:
        """Whether so many more may come even while as many others as can be under way bring as many each."""
        return number * UNDER_WAY * _KEPT <= self.limit and self.jobs <= self.limit - self.limit // _KEPT


_ROOMS = text("""
    SELECT (SELECT CAST(coalesce(sum(jobs), 0) AS bigint) FROM backlog WHERE tenant_id = :tenant_id) AS own,
           (SELECT CAST(coalesce(sum(jobs), 0) AS bigint) FROM backlog WHERE tenant_id = :everybody) AS everybody,
           coalesce((SELECT max_jobs FROM tenants WHERE id = :tenant_id), :quota) AS quota
""")
_LOCK = "SELECT pg_advisory_xact_lock{how}(:space, hashtext(CAST(:tenant_id AS text)))"
_SHARE, _ALONE = text(_LOCK.format(how="_shared")), text(_LOCK.format(how=""))


def read_rooms(tx: Transaction, tenant_id: UUID, *, quota: int, most: int) -> tuple[Room, Room]:
    """A tenant's room and everybody's. `quota` holds for tenants without a limit of their own, `most` for all."""
    row = tx.execute(_ROOMS, {"tenant_id": tenant_id, "everybody": EVERYBODY, "quota": quota}).one()
    return Room(tenant_id, max(row.own, 0), row.quota), Room(EVERYBODY, max(row.everybody, 0), most)


_OWN = text("SELECT CAST(coalesce(sum(jobs), 0) AS bigint) FROM backlog WHERE tenant_id = :tenant_id")


def count_waiting(tx: Transaction, tenant_id: UUID) -> int:
    """Jobs of a tenant that wait or run."""
    jobs: int = tx.execute(_OWN, {"tenant_id": tenant_id}).scalar_one()
    return max(jobs, 0)


def find_full(tx: Transaction, tenant_id: UUID, number: int, *, quota: int, most: int) -> Room | None:
    """The room that `number` more jobs do not fit into; None where they do, and this transaction may insert them."""
    rooms = read_rooms(tx, tenant_id, quota=quota, most=most)
    shared = []
    for room, space in zip(rooms, (_TENANT_LOCK, _EVERYBODY_LOCK), strict=True):
        if not room.fits(number):
            return room
        shared.append(room.is_ample(number))
        tx.execute(_SHARE if shared[-1] else _ALONE, {"space": space, "tenant_id": room.tenant_id})
    now = read_rooms(tx, tenant_id, quota=quota, most=most)
    for room, is_shared in zip(now, shared, strict=True):
        # A tenth of the limit came between the two looks: the lock cannot be changed now, the next try takes it alone.
        if not room.fits(number) or (is_shared and not room.is_ample(number)):
            return room
    return None


# By the models that are known: the key of `minutes` has the model before the minute.
_RATE = text(f"""
    SELECT CAST(coalesce(sum(m.succeeded + m.failed + m.cancelled + m.expired + m.quarantined), 0) AS float)
           / ({_RATE_MINUTES} * 60)
    FROM tenants t CROSS JOIN models o JOIN minutes m ON m.tenant_id = t.id AND m.model = o.name
    WHERE m.minute > now() - interval '{_RATE_MINUTES} minutes' AND (t.id = :tenant_id OR :tenant_id = :everybody)
""")  # noqa: S608 - made of constants


def read_rate(tx: Transaction, tenant_id: UUID) -> float:
    """Jobs that ended a second over the last minutes: a tenant's, or with EVERYBODY all."""
    rate: float = tx.execute(_RATE, {"tenant_id": tenant_id, "everybody": EVERYBODY}).scalar_one()
    return rate


# One statement is one snapshot: what the counters lack in it they lack for good, whatever is counted beside it.
_CORRECT = text(f"""
    WITH found AS (
        SELECT coalesce(tenant_id, CAST(:everybody AS uuid)) AS tenant_id, count(*) AS jobs
        FROM queue WHERE kind IN ('infer', 'prepare') GROUP BY ROLLUP (tenant_id)
    ),
    counted AS (SELECT tenant_id, sum(jobs) AS jobs FROM backlog GROUP BY tenant_id)
    INSERT INTO backlog (tenant_id, shard, jobs)
    SELECT tenant_id, pg_backend_pid() % {_SHARDS}, coalesce(f.jobs, 0) - coalesce(c.jobs, 0)
    FROM found f FULL JOIN counted c USING (tenant_id) WHERE coalesce(f.jobs, 0) <> coalesce(c.jobs, 0)
    ORDER BY tenant_id
    ON CONFLICT (tenant_id, shard) DO UPDATE SET jobs = backlog.jobs + excluded.jobs
    RETURNING tenant_id
""")  # noqa: S608 - made of constants


def correct(tx: Transaction) -> list[UUID]:
    """Put the counts right from the rows. Answers whose were wrong; EVERYBODY may be among them."""
    return list(tx.execute(_CORRECT, {"everybody": EVERYBODY}).scalars())
