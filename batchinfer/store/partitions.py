"""Days of jobs and what hangs on them: a partition holds the UUIDv7s made in one day of UTC.

Made ahead; what falls outside lands in the default partition, where it is found and served like the rest.
"""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchinfer.store.session import Transaction

log = logging.getLogger(__name__)
PARTITIONED = ("jobs", "results", "attempts", "job_blobs")
_MAKER_LOCK = 7215002
_LOCK = text("SELECT pg_advisory_xact_lock(:key)")
_PATIENCE = text("SET LOCAL lock_timeout = '3s'")
_TODAY = text("SELECT CAST(timezone('UTC', now()) AS date)")
_EXISTING = text("""
    SELECT child.relname FROM pg_inherits i JOIN pg_class child ON child.oid = i.inhrelid
    WHERE i.inhparent IN (SELECT to_regclass(name) FROM unnest(CAST(:parents AS text[])) AS name)
""")
#: A database that is migrated to an older revision lacks some.
_TABLES = text("SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE to_regclass(name) IS NOT NULL")


def first_id(day: date) -> UUID:
    """The smallest UUIDv7 that can be made on a day (version and variant bits left at zero); none is before 1970."""
    return first_id_at(datetime(day.year, day.month, day.day, tzinfo=UTC))


def first_id_at(moment: datetime) -> UUID:
    """The smallest UUIDv7 that can be made in the millisecond of an aware time."""
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


def list_partitions(tx: Transaction) -> set[str]:
    """The names of the tables that hold a day, or what no day holds."""
    return set(tx.execute(_EXISTING, {"parents": list(PARTITIONED)}).scalars())


def ensure_partitions(tx: Transaction, days_ahead: int = 7) -> int:
    """Make the default partitions and those from yesterday to `days_ahead` days ahead. Answers how many were missing.

    Any number of processes may call it at once. A day whose rows already lie in the default partition is left there.
    """
    tx.execute(_LOCK, {"key": _MAKER_LOCK})
    tx.execute(_PATIENCE)
    existing = list_partitions(tx)
    today: date = tx.execute(_TODAY).scalar_one()
    made = 0
    for table in tx.execute(_TABLES, {"names": list(PARTITIONED)}).scalars().all():
        if f"{table}_default" not in existing:
            tx.execute(text(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT"))
            made += 1
        for offset in range(-1, days_ahead + 1):
            day = today + timedelta(days=offset)
            if f"{table}_{day:%Y%m%d}" not in existing:
                made += _make_day(tx, table, day)
    return made


def make_days(tx: Transaction, days: Iterable[date]) -> None:
    """Make the partitions of these days, where they are missing."""
    existing = list_partitions(tx)
    for table in tx.execute(_TABLES, {"names": list(PARTITIONED)}).scalars().all():
        for day in days:
            if f"{table}_{day:%Y%m%d}" not in existing:
                _make_day(tx, table, day)


def _make_day(tx: Transaction, table: str, day: date) -> int:
    """Made apart and then attached: that locks the parent for nobody who reads or writes."""
    name = f"{table}_{day:%Y%m%d}"
    low, high = first_id(day), first_id(day + timedelta(days=1))
    try:
        with tx.begin_nested():
            tx.execute(text(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)"))
            tx.execute(text(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')"))
    except IntegrityError:
        log.warning("partition %s was not made: rows of that day already lie in %s_default", name, table)
        return 0
    return 1
