"""A database filled from a backup, in one transaction: the schema of the backup, its rows, then this release's schema.

Whoever looks meanwhile sees the empty database; whatever ends the transaction early leaves it so.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.errors import BackupError
from batchinfer.store import leases, partitions
from batchinfer.store.dumping import driver, list_tables, open_engine
from batchinfer.store.migrate import upgrade_within
from batchinfer.store.session import answering

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Connection

APPLICATION = "batchinfer restore"
#: Locks that making the tables of one day takes: four tables with their indexes, and some to spare.
_LOCKS_A_DAY = 32
#: Tables in which migrations put rows.
_SEEDED = frozenset({"backlog"})
_NO_LIMIT = text("SET LOCAL statement_timeout = 0")
_LOCKS = text("""
    SELECT CAST(current_setting('max_locks_per_transaction') AS bigint) * (
        CAST(current_setting('max_connections') AS bigint)
        + CAST(current_setting('max_prepared_transactions') AS bigint)) AS most,
        CAST(current_setting('max_connections') AS bigint) AS connections
""")
_DROP_FUNCTION = text("DROP FUNCTION IF EXISTS tell_batch()")
# What was told is of the old server. Who followed there begins anew: a place behind this one is none, one before it is
# no longer kept.
_FORGET_CHANGES = text("DELETE FROM changes")
_FLOOR = text("""
    INSERT INTO changes (xid, tenant_id, subject, state, ids)
    VALUES (CAST(CAST(pg_current_xact_id() AS text) AS bigint), '00000000-0000-0000-0000-000000000000', 'floor', '',
            '{}')
""")
_END_HOSTS = text("UPDATE hosts SET ended_at = now() WHERE ended_at IS NULL")
_END_REPLICAS = text("UPDATE replicas SET state = 'stopped', ended_at = now() WHERE ended_at IS NULL")


@dataclass(frozen=True)
class Settled:
    """What was under way when the snapshot was taken: leases that were ended, and rows that wait again."""

    leases: int
    requeued: int


class Restore:
    """The transaction, open; committed where the block of `open_restore` ends."""

    def __init__(self, connection: Connection) -> None:
        self._tx = connection

    def build(self, revision: str, days: Sequence[str]) -> None:
        """Make the schema of that revision, with a table a day for these days (YYYYMMDD).

        Raises BackupError (code database_not_empty) where there is a row of ours, (code restore_no_room) where
        the server allows too few locks for so many days.
        """
        found = self.require_empty()
        if found:
            self._tx.execute(text(f"DROP TABLE {', '.join(found)} CASCADE"))
        self._tx.execute(text("DROP TABLE IF EXISTS alembic_version"))
        self._tx.execute(_DROP_FUNCTION)
        self._require_locks(len(days))
        upgrade_within(self._tx, revision)
        self._tx.execute(_NO_LIMIT)
        for table in list_tables(self._tx):
            if table.name in _SEEDED:
                self._tx.execute(text(f'DELETE FROM "{table.name}"'))  # noqa: S608 - ours
        partitions.ensure_partitions(self._tx)
        partitions.make_days(self._tx, [datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC).date() for day in days])

    def fill(self, table: str, columns: Sequence[str], pieces: Iterable[bytes]) -> int:
        """Store the rows of a table. Answers how many."""
        names = ", ".join(f'"{name}"' for name in columns)
        with driver(self._tx).cursor() as cursor:
            with cursor.copy(f'COPY "{table}" ({names}) FROM STDIN'.encode()) as stream:
                for piece in pieces:
                    stream.write(piece)
            return cursor.rowcount

    def finish(self) -> Settled:
        """Bring the schema to this release's, and let what was under way begin again: no worker of then is there."""
        upgrade_within(self._tx)
        self._tx.execute(_NO_LIMIT)
        partitions.ensure_partitions(self._tx)
        given = leases.end_all(self._tx, "restored")
        for statement in (_END_REPLICAS, _END_HOSTS, _FORGET_CHANGES, _FLOOR):
            self._tx.execute(statement)
        return Settled(given.leases, given.rows)

    def require_empty(self) -> list[str]:
        """No row of ours may be there: empty tables, as `batchinfer migrate` makes them, are made anew. Answers those.

        Raises BackupError (code database_not_empty).
        """
        found = [table.name for table in list_tables(self._tx)]
        for name in sorted({*found} - _SEEDED):
            if self._tx.execute(text(f'SELECT EXISTS (SELECT 1 FROM "{name}")')).scalar_one():  # noqa: S608 - ours
                raise BackupError(
                    "This database is in use: it has rows, and a restore overwrites nothing. "
                    "Name an empty database, or another --home.",
                    code="database_not_empty",
                )
        return found

    def _require_locks(self, days: int) -> None:
        locks = self._tx.execute(_LOCKS).one()
        needed = days * _LOCKS_A_DAY
        if needed > locks.most:
            raise BackupError(
                f"The backup has {days:,} days, and this server allows too few locks to make their tables at once. Set "
                f"max_locks_per_transaction = {needed // locks.connections + 64} in its configuration and restart it.",
                code="restore_no_room",
            )


@contextmanager
def open_restore(url: str) -> Iterator[Restore]:
    """One transaction that fills an empty database. Raises Unavailable where the database does not answer, and
    BackupError (code restore_no_room) where its disk is full."""
    engine = open_engine(url, APPLICATION)
    with answering(), engine.connect() as connection:
        try:
            with connection.begin():
                yield Restore(connection)
        except Exception as error:
            if getattr(getattr(error, "orig", error), "sqlstate", None) == "53100":
                raise BackupError(
                    "The disk of the database is full, so nothing was restored. Free some space there, and try again.",
                    code="restore_no_room",
                ) from None
            raise


def analyze(url: str) -> None:
    """Let the planner know the new tables; without, it does by itself some minutes later."""
    engine = open_engine(url, APPLICATION)
    with answering(), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in list_tables(connection):
            connection.execute(text(f'ANALYZE "{table.name}"'))
