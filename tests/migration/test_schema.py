"""The migrations against the tables in code: equal, on an empty database, again, and by many at once."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.schema import CreateTable

from batchinfer.errors import Unavailable
from batchinfer.store import migrate, partitions
from batchinfer.store.tables import metadata

PARTITION = re.compile(r"(jobs|results|attempts|job_blobs)_(default|\d{8})")


@pytest.fixture
def connect():
    engines = []

    def open_(url):
        engines.append(sqlalchemy.create_engine("postgresql+psycopg://" + url.split("://", 1)[1]))
        return engines[-1].connect()

    yield open_
    for engine in engines:
        engine.dispose()


def include(_, name, kind, *__):
    return not (kind == "table" and PARTITION.fullmatch(name))


def test_the_migrations_build_what_the_code_says(empty_database_url, connect):
    assert migrate.upgrade(empty_database_url) == migrate.head_revision()
    with connect(empty_database_url) as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "compare_server_default": True, "include_object": include},
        )
        assert compare_metadata(context, metadata) == []


def test_partitions_and_storage_are_as_the_code_says(database_url, connect):
    with connect(database_url) as connection:
        keys = dict(
            tuple(row)
            for row in connection.execute(
                text("SELECT relname, pg_get_partkeydef(oid) FROM pg_class WHERE relkind = 'p'")
            )
        )
        options = connection.execute(text("SELECT reloptions FROM pg_class WHERE relname = 'queue'")).scalar()
    assert keys == {
        table.name: table.dialect_options["postgresql"]["partition_by"]
        for table in metadata.sorted_tables
        if table.dialect_options["postgresql"]["partition_by"]
    }
    assert set(keys) == set(partitions.PARTITIONED)
    wanted = metadata.tables["queue"].dialect_options["postgresql"]["with"]
    assert dict(option.split("=") for option in options) == wanted


def test_indexes_and_defaults_are_those_of_the_code(database_url, connect, empty_database_url):
    """Beyond what Alembic compares: the same definitions, letter for letter, as the tables made from code."""
    listing = text("""
        SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
        AND tablename <> 'alembic_version' AND tablename !~ '_(default|[0-9]{8})$' ORDER BY 1, 2
    """)
    columns = text("""
        SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name <> 'alembic_version' AND table_name !~ '_(default|[0-9]{8})$'
        ORDER BY 1, 2
    """)
    with connect(empty_database_url) as made:
        metadata.create_all(made)
        made.commit()
        with connect(database_url) as migrated:
            for query in (listing, columns):
                assert migrated.execute(query).all() == made.execute(query).all()


def test_a_partition_has_every_index_of_its_table(database_url, connect):
    with connect(database_url) as connection:
        look = inspect(connection)
        for table in partitions.PARTITIONED:
            whole = sorted(tuple(index["column_names"]) for index in look.get_indexes(table))
            days = [n for n in look.get_table_names() if (found := PARTITION.fullmatch(n)) and found[1] == table]
            assert len(days) > 5
            for day in days:
                assert sorted(tuple(index["column_names"]) for index in look.get_indexes(day)) == whole


def test_migrating_again_and_by_many_at_once_changes_nothing(empty_database_url):
    with ThreadPoolExecutor(4) as pool:
        revisions = set(pool.map(lambda _: migrate.upgrade(empty_database_url), range(4)))
    assert revisions == {migrate.head_revision()}
    assert migrate.upgrade(empty_database_url) == migrate.head_revision()


def test_a_migration_that_cannot_have_its_lock_gives_up(empty_database_url, connect, monkeypatch):
    migrate.upgrade(empty_database_url)
    monkeypatch.setattr(migrate, "_PATIENCE_S", 0.2)
    with connect(empty_database_url) as other:
        other.execute(text("SELECT pg_advisory_lock(:key)"), {"key": migrate._MIGRATOR_LOCK})
        with pytest.raises(Unavailable):
            migrate.upgrade(empty_database_url)
        other.invalidate()
    assert migrate.upgrade(empty_database_url) == migrate.head_revision()


def test_every_table_can_be_printed_for_both_servers():
    """Nothing in the tables needs a server newer than 15."""
    for table in metadata.sorted_tables:
        statement = str(CreateTable(table).compile(dialect=sqlalchemy.dialects.postgresql.dialect()))
        assert "NULLS NOT DISTINCT" not in statement
        assert "uuidv7" not in statement
