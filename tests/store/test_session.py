"""Transactions, and what a database that does not answer looks like."""

from __future__ import annotations

import socket
import threading

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from batchinfer.errors import Unavailable
from batchinfer.store.clean import clean_json, clean_text
from batchinfer.store.session import Database


@pytest.fixture
def db(context):
    return context.db


def test_a_transaction_is_whole_or_not_at_all(db):
    def fail_half_way():
        with db.transaction() as tx:
            tx.execute(text("INSERT INTO ticks (name) VALUES ('a')"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with db.transaction() as tx:
        assert tx.execute(text("SELECT count(*) FROM ticks")).scalar() == 0
        tx.execute(text("INSERT INTO ticks (name) VALUES ('b')"))
    with db.transaction() as tx:
        assert tx.execute(text("SELECT name FROM ticks")).scalars().all() == ["b"]


def test_sessions_are_limited_and_named(db):
    settings = {
        "statement_timeout": "30s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "10s", "jit": "off",
        "synchronous_commit": "on", "application_name": "batchinfer", "TimeZone": "UTC",
        "transaction_isolation": "read committed",
    }  # fmt: skip
    with db.transaction() as tx:
        found = {name: tx.execute(text(f"SHOW {name}")).scalar() for name in settings}
    assert found == settings


def test_only_a_relaxed_transaction_is_relaxed(db):
    with db.transaction(relaxed=True) as tx:
        assert tx.execute(text("SHOW synchronous_commit")).scalar() == "off"
    with db.transaction() as tx:
        assert tx.execute(text("SHOW synchronous_commit")).scalar() == "on"


def test_a_cut_connection_is_unavailable_and_the_next_one_works(db):
    def lose_the_connection():
        with db.transaction() as tx:
            pid = tx.execute(text("SELECT pg_backend_pid()")).scalar()
            with db.transaction() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            tx.execute(text("SELECT 1"))

    with pytest.raises(Unavailable) as refused:
        lose_the_connection()
    assert (refused.value.code, refused.value.retry_after_s) == ("database_unavailable", 5)
    assert "pg_" not in refused.value.message
    db.ping()


def test_an_idle_connection_that_was_cut_is_replaced_unseen(db):
    with db.transaction() as tx:
        pid = tx.execute(text("SELECT pg_backend_pid()")).scalar()
    with psycopg.connect(db.engine.url.set(drivername="postgresql").render_as_string(False), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [pid])
    db.ping()


@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_a_server_that_is_not_there_is_unavailable(kind):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if kind == "refused":
            server.close()
        db = Database(f"postgresql+psycopg://nobody@127.0.0.1:{port}/none", pool_size=1)
        with pytest.raises(Unavailable):
            db.ping()
        db.dispose()


def test_an_exhausted_pool_is_unavailable(context, monkeypatch):
    monkeypatch.setattr("batchinfer.store.session.POOL_TIMEOUT_S", 0.05)
    small = Database(context.settings.require_database_url(), pool_size=1)
    with small.transaction(), pytest.raises(Unavailable):
        small.ping()
    small.ping()
    small.dispose()


@pytest.mark.parametrize(
    "statements",
    [
        ["SET LOCAL statement_timeout = 20", "SELECT pg_sleep(60)"],
        ["SET TRANSACTION READ ONLY", "INSERT INTO ticks (name) VALUES ('a')"],
        ["DO $$ BEGIN RAISE EXCEPTION 'disk' USING ERRCODE = 'disk_full'; END $$"],
        ["DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = 'serialization_failure'; END $$"],
    ],
    ids=["timeout", "read-only", "disk-full", "serialisation"],
)
def test_what_may_pass_is_unavailable(db, statements):
    def run():
        with db.transaction() as tx:
            for statement in statements:
                tx.execute(text(statement))

    with pytest.raises(Unavailable):
        run()


def test_a_deadlock_is_unavailable_for_one_of_the_two(db):
    with db.transaction() as tx:
        tx.execute(text("INSERT INTO ticks (name) VALUES ('a'), ('b')"))
    start, outcomes = threading.Barrier(2), []

    def update(first, second):
        try:
            with db.transaction() as tx:
                tx.execute(text("UPDATE ticks SET ticked_at = now() WHERE name = :n"), {"n": first})
                start.wait()
                tx.execute(text("UPDATE ticks SET ticked_at = now() WHERE name = :n"), {"n": second})
            outcomes.append("done")
        except Unavailable:
            outcomes.append("unavailable")

    threads = [threading.Thread(target=update, args=names) for names in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(outcomes) == ["done", "unavailable"]


def test_a_fault_of_ours_is_not_hidden(db):
    with pytest.raises(IntegrityError), db.transaction() as tx:
        tx.execute(text("INSERT INTO ticks (name) VALUES ('a'), ('a')"))


def test_what_postgres_cannot_keep_is_replaced():
    assert clean_text("a\x00b\udfff\N{GRINNING FACE}") == "a\ufffdb\ufffd\N{GRINNING FACE}"
    dirty = {"a\x00": ["\ud800", (1, 2.5, None, True, float("inf"))], "n": {"x": float("nan")}}
    assert clean_json(dirty) == {"a\ufffd": ["\ufffd", [1, 2.5, None, True, None]], "n": {"x": None}}
