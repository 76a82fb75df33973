"""Whole days of jobs, results and attempts, dropped once nothing in them lives; and what lies beside them.

A day is dropped under a lock on its tables that is asked for with little patience: nobody who reads or writes waits
long, and where it cannot be had the next look comes in an hour.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.store.partitions import PARTITIONED, first_id, list_partitions

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.session import Transaction

log = logging.getLogger(__name__)
_DAY = re.compile(r"jobs_(\d{8})")
# Shorter than deadlock_timeout (1 s), so that in a circle of waits it is we who give up.
_PATIENCE = text("SET LOCAL lock_timeout = '400ms'")
_LIVES = text("SELECT EXISTS (SELECT 1 FROM queue WHERE id >= :low AND id < :high)")
_TODAY = text("SELECT CAST(timezone('UTC', now()) AS date)")


def list_expired_days(tx: Transaction, keep_days: int) -> list[date]:
    """The days with tables of their own that ended more than `keep_days` days ago and hold nothing live."""
    today: date = tx.execute(_TODAY).scalar_one()
    names = (_DAY.fullmatch(name) for name in list_partitions(tx))
    days = sorted(datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=UTC).date() for found in names if found)
    return [day for day in days if day < today - timedelta(days=keep_days) and not _lives(tx, day)]


def drop_day(tx: Transaction, day: date) -> bool:
    """Drop a day's tables; False where something in it lives after all.

    Raises Unavailable where the lock cannot be had at once. Nobody can make a row of the day live again in between:
    that takes a lock on its job, which is ours first or waited for.
    """
    tx.execute(_PATIENCE)
    parents, days = ", ".join(PARTITIONED), [f"{table}_{day:%Y%m%d}" for table in PARTITIONED]
    existing = list_partitions(tx)
    tx.execute(text(f"LOCK TABLE ONLY {parents.replace(', ', ', ONLY ')} IN ACCESS EXCLUSIVE MODE"))
    if _lives(tx, day):
        return False
    for parent, name in zip(PARTITIONED, days, strict=True):
        if name in existing:
            tx.execute(text(f"ALTER TABLE {parent} DETACH PARTITION {name}"))
            tx.execute(text(f"DROP TABLE {name}"))
    log.info("the day %s was dropped: its time is over", day)
    return True


def _lives(tx: Transaction, day: date) -> bool:
    bounds = {"low": first_id(day), "high": first_id(day + timedelta(days=1))}
    return bool(tx.execute(_LIVES, bounds).scalar_one())


# Some at a time: what is left comes again in an hour. Documents go once all their pages have gone, their run has ended
# and no later document that is kept has their pages for its own.
# What no day holds lies in the default tables.
_BESIDE = (
    text("""
        DELETE FROM documents WHERE id IN (
            SELECT d.id FROM documents d WHERE d.id < :before
              AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.id = d.id)
              AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.document_id = d.id)
              AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = d.run_id AND r.finished_at IS NULL)
              AND NOT EXISTS (SELECT 1 FROM documents k WHERE k.same_as = d.id)
            LIMIT 20000)
    """),
    text("""
        DELETE FROM shards WHERE id IN (
            SELECT s.id FROM shards s WHERE s.id < :before
              AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = s.run_id AND r.finished_at IS NULL)
            LIMIT 20000)
    """),
    text(
        "DELETE FROM runs WHERE id IN (SELECT id FROM runs WHERE id < :before AND finished_at IS NOT NULL LIMIT 20000)"
    ),
    text("""
        DELETE FROM bulk_acts WHERE id IN (
            SELECT id FROM bulk_acts WHERE id < :before AND finished_at IS NOT NULL LIMIT 20000)
    """),
    text("DELETE FROM reviews v WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = v.run_id)"),
    # Whose document is gone: the file is read anew, should it come again.
    text("""
        DELETE FROM ledger WHERE (tenant_id, recipe, uri_key) IN (
            SELECT l.tenant_id, l.recipe, l.uri_key FROM ledger l WHERE l.document_id < :before
              AND NOT EXISTS (SELECT 1 FROM documents d WHERE d.id = l.document_id)
            LIMIT 20000)
    """),
    text("DELETE FROM jobs_default j WHERE id < :before AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.id = j.id)"),
    text("""
        DELETE FROM results_default r WHERE job_id < :before
          AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = r.job_id)
    """),
    text("""
        DELETE FROM attempts_default a WHERE job_id < :before
          AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.id = a.job_id)
    """),
    text("""
        DELETE FROM job_blobs_default b WHERE job_id < :before
          AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.id = b.job_id)
    """),
    text("DELETE FROM events WHERE id IN (SELECT id FROM events WHERE id < :before ORDER BY id LIMIT 100000)"),
)


def find_horizon(tx: Transaction, keep_days: int) -> UUID:
    """The smallest id that is still kept."""
    today: date = tx.execute(_TODAY).scalar_one()
    return first_id(today - timedelta(days=keep_days))


def drop_beside(tx: Transaction, before: UUID) -> int:
    """Remove older documents without pages, runs with what is theirs, stray rows of the default tables, and events.

    Answers how many rows."""
    return sum(tx.execute(statement, {"before": before}).rowcount for statement in _BESIDE)
