"""Indexes built by a migration while everybody reads and writes their tables, partitioned ones too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

#: A build first waits for every transaction that was open before it; it keeps nobody waiting meanwhile.
BUILD_PATIENCE_S = 3600

_LEFT = text("""
    SELECT part.relname AS partition, own.relname AS index, coalesce(i.indisvalid, false) AS valid
    FROM pg_inherits h JOIN pg_class part ON part.oid = h.inhrelid
    LEFT JOIN pg_class own ON own.relname = part.relname || :suffix AND own.relkind = 'i'
        AND own.relnamespace = part.relnamespace
    LEFT JOIN pg_index i ON i.indexrelid = own.oid
    WHERE h.inhparent = CAST(:table AS regclass) AND NOT EXISTS (
        SELECT 1 FROM pg_inherits ih JOIN pg_index x ON x.indexrelid = ih.inhrelid
        WHERE ih.inhparent = CAST(:name AS regclass) AND x.indrelid = part.oid)
    ORDER BY 1 LIMIT 1
""")
_PARTITIONED = text("SELECT relkind = 'p' FROM pg_class WHERE oid = CAST(:table AS regclass)")
_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
_SETTINGS = text("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
_SET = text("SELECT set_config('lock_timeout', :lock, false), set_config('statement_timeout', :statement, false)")


def online(context: MigrationContext) -> AbstractContextManager[None]:
    """Each statement of this block is committed by itself; not in a restore, whose one transaction holds everything:
    nobody else is in that database, and indexes are built as usual."""
    whole = context.config is not None and bool(context.config.attributes.get("whole"))
    return nullcontext() if whole else context.autocommit_block()


def build_index(connection: Connection, name: str, table: str, columns: str, where: str = "") -> None:
    """An index on a table, CONCURRENTLY; on a partitioned one and all its partitions, one after another.

    `name` and `table` are plain names, `columns` and `where` SQL. To be called within `online`. Whatever an interrupted
    build left is finished, so that a migration may be run again.
    """
    rule = f"({columns})" + (f" WHERE {where}" if where else "")
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.execute(text(f"CREATE INDEX IF NOT EXISTS {name} ON {table} {rule}"))
        return
    if not connection.execute(_PARTITIONED, {"table": table}).scalar_one():
        valid = connection.execute(_VALID, {"name": name}).scalar()
        _build(connection, name, table, rule, broken=valid is False)
        return
    connection.execute(text(f"CREATE INDEX IF NOT EXISTS {name} ON ONLY {table} {rule}"))
    look = {"table": table, "name": name, "suffix": name.removeprefix("ix").replace(f"_{table}_", "_", 1) + "_ix"}
    while (left := connection.execute(_LEFT, look).first()) is not None:
        own = left.partition + look["suffix"]
        _build(connection, own, left.partition, rule, broken=left.index is not None and not left.valid)
        connection.execute(text(f"ALTER INDEX {name} ATTACH PARTITION {own}"))


def _build(connection: Connection, name: str, table: str, rule: str, *, broken: bool) -> None:
    """`broken`: an interrupted build left one of this name that nobody may use."""
    with _patient(connection):
        if broken:
            connection.execute(text(f"DROP INDEX CONCURRENTLY {name}"))
        connection.execute(text(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} {rule}"))


@contextmanager
def _patient(connection: Connection) -> Iterator[None]:
    lock, statement = connection.execute(_SETTINGS).one()
    connection.execute(_SET, {"lock": f"{BUILD_PATIENCE_S}s", "statement": "0"})
    yield  # what raises here ends the migration, and with it what was set
    connection.execute(_SET, {"lock": lock, "statement": statement})
