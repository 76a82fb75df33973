"""Migrations while others work: whoever writes passes, whoever holds a lock is waited for, a newer schema is left."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.errors import StartError, Unavailable
from batchinfer.store import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JOB = "INSERT INTO jobs (id, tenant_id, model, prompt) VALUES (%s, %s, 'm', '{}')"
WAITS = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'batchinfer migrate' AND wait_event_type = 'Lock'
      AND query LIKE %s"""
INDEXES = """SELECT c.relname, i.indisvalid, pg_get_indexdef(c.oid)
    FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE c.relname LIKE 'ix_jobs_tenant_%%' ORDER BY 1"""
LOOSE = """SELECT count(*) FROM pg_index i JOIN pg_inherits h ON h.inhrelid = i.indrelid
    WHERE h.inhparent = 'jobs'::regclass AND NOT i.indisvalid"""
PATIENCE_S = 90.0


@pytest.fixture
def before(empty_database_url: str) -> str:
    """A database at the step before the one that builds indexes on jobs."""
    migrate.upgrade(empty_database_url, "0015")
    return empty_database_url


@pytest.fixture
def look(before: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(before, autocommit=True, options="-c lock_timeout=5s") as connection:
        yield connection


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def is_waiting(look: psycopg.Connection[tuple[object, ...]], statement: str) -> bool:
    return look.execute(WAITS, [statement]).fetchone() == (1,)


def test_whoever_writes_jobs_passes_while_their_indexes_are_built(
    before: str, look: psycopg.Connection[tuple[object, ...]]
) -> None:
    """A transaction from before the build keeps it waiting, and nobody waits for the build."""
    with ThreadPoolExecutor(1) as pool, psycopg.connect(before) as other:
        look.execute("CREATE TABLE elsewhere ()")
        # A snapshot and no lock on jobs: the build waits for it, the short steps before do not.
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT FROM elsewhere")
        migration = pool.submit(migrate.upgrade, before, "0016")
        wait_until(lambda: is_waiting(look, "CREATE INDEX CONCURRENTLY%"), "the build waits")
        look.execute(JOB, [new_id(), DEFAULT_TENANT])
        look.execute("UPDATE jobs SET metadata = '{\"seen\": true}'")
        assert not migration.done()
        other.rollback()
        assert migration.result(PATIENCE_S) == "0016"
    assert look.execute("SELECT count(*) FROM jobs WHERE metadata ? 'seen'").fetchone() == (1,)
    assert look.execute(LOOSE).fetchone() == (0,)


def test_a_build_that_was_cut_off_is_finished_by_the_next(
    before: str, look: psycopg.Connection[tuple[object, ...]]
) -> None:
    with ThreadPoolExecutor(1) as pool, psycopg.connect(before) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        migration = pool.submit(migrate.upgrade, before, "0016")
        wait_until(lambda: is_waiting(look, "CREATE INDEX CONCURRENTLY%"), "the build waits")
        look.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'batchinfer migrate'"
        )
        with pytest.raises(Unavailable):
            migration.result(PATIENCE_S)
    assert look.execute(LOOSE).fetchone() != (0,), "it left nothing half done: the fault did not bite"
    assert migrate.upgrade(before) == migrate.head_revision()
    assert look.execute(LOOSE).fetchone() == (0,)
    found = look.execute(INDEXES).fetchall()
    assert [(name, valid) for name, valid, _ in found] == [
        ("ix_jobs_tenant_model", True),
        ("ix_jobs_tenant_state", True),
    ]
    assert "deleted_at IS NULL" in str(found[1][2])


LEASE_INDEXES = """SELECT c.relname, i.indisvalid FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
    WHERE i.indrelid = 'leases'::regclass AND NOT i.indisprimary ORDER BY 1"""
BEAT = "UPDATE leases SET heartbeat_at = now() RETURNING id"


def test_workers_give_signs_of_life_while_leases_get_indexes(empty_database_url: str) -> None:
    """On a table without partitions, too; and a build that is cut off there is finished by the next."""
    migrate.upgrade(empty_database_url, "0020")
    with psycopg.connect(empty_database_url, autocommit=True, options="-c lock_timeout=5s") as look:
        look.execute("INSERT INTO leases (id, role, worker, host, pid) VALUES (%s, 'cpu', 'w', 'h', 1)", [new_id()])
        with ThreadPoolExecutor(1) as pool, psycopg.connect(empty_database_url) as other:
            other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            other.execute("SELECT 1")
            migration = pool.submit(migrate.upgrade, empty_database_url, "0021")
            wait_until(lambda: is_waiting(look, "CREATE INDEX CONCURRENTLY%"), "the build waits")
            assert look.execute(BEAT).fetchone() is not None
            look.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'batchinfer migrate'"
            )
            with pytest.raises(Unavailable):
                migration.result(PATIENCE_S)
        assert look.execute(LEASE_INDEXES).fetchall() == [("ix_leases_alive", False)], "the fault did not bite"
        assert migrate.upgrade(empty_database_url, "0021") == "0021"
        assert look.execute(LEASE_INDEXES).fetchall() == [("ix_leases_alive", True), ("ix_leases_ended_at", True)]


def test_a_lock_that_is_not_to_be_had_is_asked_for_again(
    before: str, look: psycopg.Connection[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step gives up after its seconds, so that whoever came behind it may pass, and comes back."""
    gave_up = threading.Event()
    with ThreadPoolExecutor(1) as pool, psycopg.connect(before) as holder:
        holder.execute(JOB, [new_id(), DEFAULT_TENANT])
        monkeypatch.setattr(migrate.time, "sleep", lambda _: gave_up.set())
        migration = pool.submit(migrate.upgrade, before, "0016")
        assert gave_up.wait(PATIENCE_S)
        holder.commit()
        assert migration.result(PATIENCE_S) == "0016"


def test_the_schema_of_a_newer_release_is_left_alone(before: str, look: psycopg.Connection[tuple[object, ...]]) -> None:
    look.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartError, match=r"newer release \(9999\)"):
        migrate.upgrade(before)
    assert look.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
