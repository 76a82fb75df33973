"""Whole days of jobs, results and attempts, dropped once nothing in them lives; and what lies beside them.

A day that a tenant keeps for longer than the others stays for its sake; theirs go out of it row by row, as do those of
a tenant that keeps less. A day is dropped under a lock on its tables that is asked for with little patience: nobody who
reads or writes waits long, and where it cannot be had the next look comes in an hour.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.store.horizons import FOR_EVER, with_horizons
from batchinfer.store.partitions import PARTITIONED, first_id, list_partitions

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.horizons import Horizons
    from batchinfer.store.session import Transaction

log = logging.getLogger(__name__)
_DAY = re.compile(r"jobs_(\d{8})")
# Shorter than deadlock_timeout (1 s), so that in a circle of waits it is we who give up.
_PATIENCE = text("SET LOCAL lock_timeout = '400ms'")
_LIVES = text("SELECT EXISTS (SELECT 1 FROM queue WHERE id >= :low AND id < :high)")
_KEPT = text("""
    SELECT EXISTS (SELECT 1 FROM jobs WHERE tenant_id = ANY (CAST(:keepers AS uuid[])) AND id >= :low AND id < :high)
""")


def list_expired_days(tx: Transaction, horizons: Horizons) -> list[date]:
    """The days with tables of their own that are over, hold nothing live and are kept by nobody for longer."""
    names = (_DAY.fullmatch(name) for name in list_partitions(tx))
    days = sorted(datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=UTC).date() for found in names if found)
    return [day for day in days if first_id(day) < horizons.before and not _stays(tx, day, horizons)]


def drop_day(tx: Transaction, day: date, horizons: Horizons) -> bool:
    """Drop a day's tables; False where something in it lives, or is kept, after all.

    Raises Unavailable where the lock cannot be had at once. Nobody can make a row of the day live again in between:
    that takes a lock on its job, which is ours first or waited for.
    """
    tx.execute(_PATIENCE)
    parents, days = ", ".join(PARTITIONED), [f"{table}_{day:%Y%m%d}" for table in PARTITIONED]
    existing = list_partitions(tx)
    tx.execute(text(f"LOCK TABLE ONLY {parents.replace(', ', ', ONLY ')} IN ACCESS EXCLUSIVE MODE"))
    if _stays(tx, day, horizons):
        return False
    for parent, name in zip(PARTITIONED, days, strict=True):
        if name in existing:
            tx.execute(text(f"ALTER TABLE {parent} DETACH PARTITION {name}"))
            tx.execute(text(f"DROP TABLE {name}"))
    log.info("the day %s was dropped: its time is over", day)
    return True


def _stays(tx: Transaction, day: date, horizons: Horizons) -> bool:
    bounds = {"low": first_id(day), "high": first_id(day + timedelta(days=1))}
    keepers = horizons.list_keepers(day)
    return bool(tx.execute(_LIVES, bounds).scalar_one()) or bool(
        keepers and tx.execute(_KEPT, {**bounds, "keepers": keepers}).scalar_one()
    )


_TENANTS = text("SELECT id FROM tenants ORDER BY id")
# What a batch, a run or a document still needs stays until that has ended; what ended lately stays until the counters
# were held against it. Whoever would make a job live again takes its lock first.
_DROP_ROWS = text("""
    WITH gone AS MATERIALIZED (
        SELECT j.id FROM jobs j
        WHERE j.tenant_id = :tenant_id AND j.id < :first AND j.final_state IS NOT NULL
          AND coalesce(j.finished_at, j.created_at) < now() - interval '26 hours'
          AND NOT EXISTS (SELECT 1 FROM batches b WHERE b.id = j.batch_id
                          AND b.status IN ('validating', 'in_progress', 'finalizing', 'cancelling'))
          AND NOT EXISTS (SELECT 1 FROM batches c WHERE c.parent_id = j.batch_id
                          AND c.status IN ('validating', 'in_progress', 'finalizing', 'cancelling'))
          AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = j.batch_id AND r.finished_at IS NULL)
          AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.id = j.document_id)
          AND NOT EXISTS (SELECT 1 FROM jobs k WHERE k.document_id = j.document_id AND k.final_state IS NULL)
        ORDER BY j.id LIMIT :limit FOR UPDATE OF j SKIP LOCKED),
    jobs_gone AS (DELETE FROM jobs j USING gone g WHERE j.id = g.id),
    results_gone AS (DELETE FROM results r USING gone g WHERE r.job_id = g.id),
    attempts_gone AS (DELETE FROM attempts a USING gone g WHERE a.job_id = g.id),
    answers_gone AS (DELETE FROM answers a USING gone g WHERE a.job_id = g.id),
    blobs_gone AS (DELETE FROM job_blobs b USING gone g WHERE b.job_id = g.id RETURNING b.sha256)
    SELECT (SELECT count(*) FROM gone) AS number, ARRAY(SELECT DISTINCT sha256 FROM blobs_gone) AS names
""")
_LET_GO = text("""
    UPDATE blobs SET erase_at = now() WHERE (tenant_id, sha256) IN (
        SELECT tenant_id, sha256 FROM blobs
        WHERE tenant_id = :tenant_id AND sha256 = ANY (CAST(:names AS text[])) AND erase_at IS NULL
        ORDER BY sha256 FOR NO KEY UPDATE)
""")


def list_row_horizons(tx: Transaction, horizons: Horizons) -> list[tuple[UUID, UUID]]:
    """(tenant, its horizon) of those whose rows have to go one by one: none where every tenant keeps the same days."""
    if not horizons.own:
        return []
    pairs = [(tenant_id, horizons.of(tenant_id)) for tenant_id in tx.execute(_TENANTS).scalars()]
    return [(tenant_id, first) for tenant_id, first in pairs if first != FOR_EVER]


def drop_rows(tx: Transaction, tenant_id: UUID, first: UUID, *, limit: int) -> int:
    """Remove ended jobs of a tenant made before an id, with results, tries, kept answers and references to blobs, at
    most `limit`. Blobs that nothing else refers to are erased by upkeep. Answers how many."""
    found = tx.execute(_DROP_ROWS, {"tenant_id": tenant_id, "first": first, "limit": limit}).one()
    if found.names:
        tx.execute(_LET_GO, {"tenant_id": tenant_id, "names": sorted(found.names)})
    return int(found.number)


# Some at a time: what is left comes again in an hour. Documents go once all their pages have gone, their run has ended
# and no later document that is kept has their pages for its own.
# What no day holds lies in the default tables.
_BESIDE = (
    with_horizons("""
        WITH gone AS MATERIALIZED (
            SELECT d.id, d.tenant_id, d.blob FROM documents d WHERE OVER(d.id)
              AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.id = d.id)
              AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.document_id = d.id)
              AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = d.run_id AND r.finished_at IS NULL)
              AND NOT EXISTS (SELECT 1 FROM documents k WHERE k.same_as = d.id)
            LIMIT 20000),
        let_go AS (
            UPDATE blobs SET erase_at = now() WHERE (tenant_id, sha256) IN (
                SELECT tenant_id, sha256 FROM blobs
                WHERE (tenant_id, sha256) IN (SELECT tenant_id, blob FROM gone) AND erase_at IS NULL
                ORDER BY tenant_id, sha256 FOR NO KEY UPDATE))
        DELETE FROM documents d USING gone g WHERE d.id = g.id
    """),
    with_horizons("""
        DELETE FROM shards WHERE id IN (
            SELECT s.id FROM shards s WHERE OVER(s.id)
              AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = s.run_id AND r.finished_at IS NULL)
            LIMIT 20000)
    """),
    with_horizons(
        "DELETE FROM runs WHERE id IN (SELECT id FROM runs r WHERE OVER(r.id) AND finished_at IS NOT NULL LIMIT 20000)"
    ),
    with_horizons("""
        DELETE FROM bulk_acts WHERE id IN (
            SELECT id FROM bulk_acts a WHERE OVER(a.id) AND finished_at IS NOT NULL LIMIT 20000)
    """),
    text("DELETE FROM reviews v WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = v.run_id)"),
    # Whose document is gone: the file is read anew, should it come again.
    with_horizons("""
        DELETE FROM ledger WHERE (tenant_id, recipe, uri_key) IN (
            SELECT l.tenant_id, l.recipe, l.uri_key FROM ledger l WHERE OVER(l.document_id)
              AND NOT EXISTS (SELECT 1 FROM documents d WHERE d.id = l.document_id)
            LIMIT 20000)
    """),
    with_horizons(
        "DELETE FROM jobs_default j WHERE OVER(j.id) AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.id = j.id)"
    ),
    with_horizons("""
        DELETE FROM results_default r WHERE OVER(r.job_id)
          AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = r.job_id)
    """),
    with_horizons("""
        DELETE FROM attempts_default a WHERE OVER(a.job_id)
          AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.id = a.job_id)
    """),
    with_horizons("""
        DELETE FROM job_blobs_default b WHERE OVER(b.job_id)
          AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.id = b.job_id)
    """),
    with_horizons("DELETE FROM events WHERE id IN (SELECT id FROM events e WHERE OVER(e.id) ORDER BY id LIMIT 100000)"),
)


def drop_beside(tx: Transaction, before: Horizons) -> int:
    """Remove older documents without pages, runs with what is theirs, stray rows of the default tables, and events.

    Answers how many rows."""
    return sum(tx.execute(statement, before.values).rowcount for statement in _BESIDE)
