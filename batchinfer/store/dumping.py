"""Every row of the database as it was at one moment, table by table, while everybody goes on working.

One transaction (REPEATABLE READ, read only) on a connection of its own. First it locks every table as a reader, so
that no day is dropped and no table changed before it is read; then it takes its snapshot; then it copies. The
snapshot keeps the queue from being cleaned (`store.snapshots`), so it is held for the rows alone and not for files.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import NullPool, create_engine, text

from batchinfer.store.migrate import find_revision
from batchinfer.store.session import CONNECT_TIMEOUT_S, answering
from batchinfer.store.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import psycopg
    from sqlalchemy import Connection

#: By this name sessions and the warning of old snapshots know it.
APPLICATION = "batchinfer backup"
#: Rows of another server's transactions, which say nothing on this one; followers begin anew.
SKIPPED = frozenset({"changes"})
#: Tables of earlier schemas that are no longer in the code: none so far.
RETIRED: frozenset[str] = frozenset()
#: How values are written and read: the same on every server.
_FORM = "-c timezone=UTC -c datestyle=ISO -c intervalstyle=iso_8601 -c bytea_output=hex -c extra_float_digits=1"
_LIMITS = "-c statement_timeout=0 -c lock_timeout=30s -c idle_in_transaction_session_timeout=10min -c jit=off"
_PIECE_BYTES = 1 << 18
_DAY = re.compile(r"[a-z_]+_(\d{8})")
_TABLES = text("""
    SELECT c.relname AS name, array_agg(CAST(a.attname AS text) ORDER BY a.attnum) AS columns
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = CAST(current_schema() AS regnamespace) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND c.relname = ANY (CAST(:names AS text[]))
    GROUP BY c.relname ORDER BY c.relname
""")
_KEYS = text("""
    SELECT f.relname AS source, t.relname AS target FROM pg_constraint k
    JOIN pg_class f ON f.oid = k.conrelid JOIN pg_class t ON t.oid = k.confrelid
    WHERE k.contype = 'f' AND f.relnamespace = CAST(current_schema() AS regnamespace)
""")
_PARTITIONS = text("""
    SELECT c.relname FROM pg_class c
    WHERE c.relispartition AND c.relkind = 'r' AND c.relnamespace = CAST(current_schema() AS regnamespace)
""")
_MOMENT = text("SELECT now() AS taken_at, current_setting('server_version') AS server")
_BLOBS = "SELECT replace(CAST(tenant_id AS text), '-', ''), sha256, size_bytes FROM blobs ORDER BY tenant_id, sha256"
_SIZE = text("SELECT coalesce(sum(pg_table_size(c.oid)), 0) FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace ="
             " CAST(current_schema() AS regnamespace)")  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of ours, with the columns that are written."""

    name: str
    columns: tuple[str, ...]


class Dump:
    """One snapshot, open. `copy` streams a table's rows; `rows` says how many the last one had."""

    def __init__(self, connection: Connection, tables: list[Table]) -> None:
        self._connection = connection
        #: In an order in which each can be filled: those that others refer to first.
        self.tables = tables
        #: The revision of the schema; None where there is none.
        self.revision = find_revision(connection)
        moment = connection.execute(_MOMENT).one()
        self.taken_at, self.server = moment.taken_at.isoformat(), str(moment.server)
        self.days = sorted(
            {found[1] for name in connection.execute(_PARTITIONS).scalars() if (found := _DAY.fullmatch(name))}
        )
        #: What the tables take on the server's disk, in bytes: as a measure of progress.
        self.disk_bytes = int(connection.execute(_SIZE).scalar_one())
        self.rows = 0

    def copy(self, table: Table) -> Generator[bytes, None, None]:
        """The rows of a table in pieces, as COPY's text."""
        columns = ", ".join(f'"{name}"' for name in table.columns)
        yield from self._copy(f'SELECT {columns} FROM "{table.name}"')  # noqa: S608 - names out of the catalogue

    def copy_blobs(self) -> Generator[bytes, None, None]:
        """The blobs that have a row: tenant (hexadecimal), SHA-256 and length, with tabs between."""
        yield from self._copy(_BLOBS)

    def _copy(self, query: str) -> Generator[bytes, None, None]:
        with answering(), driver(self._connection).cursor() as cursor:
            with cursor.copy(f"COPY ({query}) TO STDOUT".encode()) as stream:
                held = bytearray()  # a piece is a row: handing on each by itself would cost more than the row
                for piece in stream:
                    held += piece
                    if len(held) >= _PIECE_BYTES:
                        yield bytes(held)
                        held.clear()
                yield bytes(held)
            self.rows = cursor.rowcount


@contextmanager
def open_dump(url: str) -> Iterator[Dump]:
    """Take a snapshot of the database and hold it until the block ends.

    Raises Unavailable where the database does not answer, or a table is locked for longer than half a minute.
    """
    engine = open_engine(url, APPLICATION)
    with answering(), engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        names = [table.name for table in list_tables(connection)]
        connection.rollback()
        if names:
            connection.execute(text(f"LOCK TABLE {', '.join(names)} IN ACCESS SHARE MODE"))
        yield Dump(connection, [table for table in list_tables(connection) if table.name not in SKIPPED])
        connection.rollback()


def open_engine(url: str, application: str) -> Any:
    """An engine for one long piece of work: one connection, no limit for a statement, values in one form."""
    return create_engine(
        "postgresql+psycopg://" + url.split("://", 1)[1],
        poolclass=NullPool,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": application,
            "keepalives_idle": 15,
            "options": f"{_FORM} {_LIMITS}",
        },
    )


def driver(connection: Connection) -> psycopg.Connection[Any]:
    """psycopg's own connection, which knows COPY."""
    found = connection.connection.driver_connection
    assert found is not None, "an open connection has one"  # noqa: S101 - for the type
    return found  # type: ignore[no-any-return]


def list_tables(connection: Connection) -> list[Table]:
    """Our tables that are there, those first that others refer to."""
    names = sorted({*metadata.tables, *RETIRED})
    found = {row.name: Table(row.name, tuple(row.columns)) for row in connection.execute(_TABLES, {"names": names})}
    needs: dict[str, set[str]] = {name: set() for name in found}
    for source, target in connection.execute(_KEYS):
        if source in needs and target in needs and source != target:
            needs[source].add(target)
    ordered: list[Table] = []
    while needs:
        ready = sorted(name for name, wanted in needs.items() if not wanted & needs.keys())
        assert ready, "no two tables refer to each other"  # noqa: S101 - a fault of the schema
        ordered += [found[name] for name in ready]
        for name in ready:
            del needs[name]
    return ordered
