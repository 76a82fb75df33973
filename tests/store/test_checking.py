"""Counters against rows, limits of sessions, and the oldest snapshot."""

from __future__ import annotations

import time
from dataclasses import replace

import psycopg
import pytest
from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.errors import Unavailable
from batchinfer.services import checking, fleet, upkeep, work
from batchinfer.services import jobs as job_services
from batchinfer.store import session, snapshots
from batchinfer.store.counting import Mismatch
from batchinfer.store.session import Database


@pytest.fixture
def check(bench, monkeypatch):
    """Check all minutes, this one among them: nothing is on its way in a test. And nothing but the minutes."""
    monkeypatch.setattr(checking, "MORE_CHECKS", [])

    def check():
        bench.run("DELETE FROM ticks WHERE name = 'counted'")
        bench.run("UPDATE minutes SET minute = minute - interval '1 minute'")
        for table, column in (("jobs", "finished_at"), ("results", "created_at"), ("attempts", "finished_at")):
            bench.run(f"UPDATE {table} SET {column} = {column} - interval '1 minute'")  # noqa: S608
        return checking.check_counters(bench.ctx)

    return check


def work_on_all(bench):
    """Jobs that end in every way there is."""
    done, failed, cancelled, expired, retried, _lost = bench.put(6)
    lease = bench.open()
    claims = {claim.id: claim for claim in bench.claim(lease)}
    work.complete_group(
        bench.ctx,
        lease,
        [bench.outcome(claims[done])],
        [bench.ending(claims[failed]), bench.ending(claims[retried], transient=True)],
    )
    job_services.cancel_job(bench.ctx, bench.caller, cancelled)
    bench.run("UPDATE queue SET expires_at = now() WHERE id = :id", id=expired)
    upkeep.expire(bench.ctx)
    work.end_lease(bench.ctx, lease, "killed", clean=False)
    bench.put(kind="prepare")
    cpu = bench.open("cpu")
    bench.claim(cpu, kinds=["prepare"], model=None)
    work.end_lease(bench.ctx, cpu, "killed", clean=False)


def test_counters_that_say_what_the_rows_say_are_no_news(bench, check):
    work_on_all(bench)
    assert bench.count("lost") == 2
    assert check() == []
    assert bench.rows("events", subject="counter") == []


@pytest.mark.parametrize(
    "counter", ["succeeded", "failed", "cancelled", "expired", "retried", "lost", "completion_tokens"]
)
def test_each_counter_that_differs_is_reported_and_left_alone(bench, check, counter, logged):
    work_on_all(bench)
    before = bench.count(counter)
    bench.run(f"UPDATE minutes SET {counter} = {counter} + 7 WHERE {counter} > 0")  # noqa: S608
    found = check()
    wrong = bench.count(counter)
    assert wrong > before
    assert [(m.tenant_id, m.counter, m.counted, m.rows) for m in found] == [(DEFAULT_TENANT, counter, wrong, before)]
    (event,) = bench.rows("events", subject="counter")
    assert (event.event, event.actor, event.data["counted"], event.data["rows"]) == (
        "mismatch",
        "upkeep",
        wrong,
        before,
    )
    assert "a counter differs from its rows" in [line["event"] for line in logged]
    assert bench.count(counter) == wrong, "nothing was repaired in silence"


def test_a_result_without_its_count_is_found(bench, check):
    lease = bench.open()
    bench.put(2)
    bench.complete(lease, bench.claim(lease))
    bench.run("DELETE FROM minutes")
    assert {(m.counter, m.counted, m.rows) for m in check()} == {("succeeded", 0, 2), ("completion_tokens", 0, 10)}


def test_each_minute_is_checked_once(bench, check):
    work_on_all(bench)
    bench.run("UPDATE minutes SET failed = failed + 1")
    assert len(check()) == 1
    assert checking.check_counters(bench.ctx) == []


def test_another_check_can_be_hung_in(bench, monkeypatch):
    wrong = Mismatch(DEFAULT_TENANT, "", "backlog", 3, 2)
    monkeypatch.setattr(checking, "MORE_CHECKS", [lambda _tx: [wrong]])
    assert checking.check_counters(bench.ctx) == [wrong]
    assert len(bench.rows("events", subject="counter")) == 1


@pytest.fixture
def stranger(bench):
    """Somebody else's session, without any limits of ours."""
    url = bench.ctx.db.engine.url.set(drivername="postgresql").render_as_string(False)
    with psycopg.connect(url, application_name="a report") as connection:
        yield connection


def test_an_idle_transaction_is_ended_by_the_server_and_the_process_works_on(bench, monkeypatch):
    monkeypatch.setattr(session, "IDLE_TIMEOUT_S", 1)
    db = Database(bench.ctx.settings.require_database_url(), pool_size=1)

    def dawdle():
        with db.transaction() as tx:
            tx.execute(text("INSERT INTO ticks (name) VALUES ('never')"))
            deadline = time.monotonic() + 30
            while not_ended() and time.monotonic() < deadline:
                time.sleep(0.1)
            tx.execute(text("SELECT 1"))

    def not_ended():
        with bench.ctx.db.transaction() as tx:
            found = tx.execute(text("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"))
            return found.scalar()

    with pytest.raises(Unavailable):
        dawdle()
    db.ping()
    db.dispose()
    assert bench.rows("ticks", name="never") == []


def test_a_statement_that_runs_for_too_long_is_ended(bench, monkeypatch):
    monkeypatch.setattr(session, "STATEMENT_TIMEOUT_S", 1)
    db = Database(bench.ctx.settings.require_database_url(), pool_size=1)
    with pytest.raises(Unavailable), db.transaction() as tx:
        tx.execute(text("SELECT pg_sleep(60)"))
    db.ping()
    db.dispose()


def find_report(ctx):
    with ctx.db.transaction() as tx:
        return [held for held in snapshots.list_snapshots(tx) if held.name == "a report"]


def test_the_oldest_snapshot_is_shown_and_warned_of(bench, stranger, logged):
    assert find_report(bench.ctx) == []
    stranger.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    stranger.execute("SELECT count(*) FROM queue")
    bench.put(3)
    (held,) = find_report(bench.ctx)
    assert held.kind == "session"
    assert held.xids >= 1
    assert 0 <= held.age_s < 60
    oldest = checking.find_oldest_snapshot(bench.ctx)
    assert oldest is not None
    assert oldest.age_s >= held.age_s - 1
    assert fleet.overview(bench.ctx, bench.caller).oldest_snapshot_s >= 0
    strict = replace(bench.ctx, settings=bench.ctx.settings.model_copy(update={"snapshot_warn_s": 0.001}))
    assert "a report" in [held.name for held in checking.warn_of_old_snapshots(strict)]
    assert any("an old snapshot" in line["event"] for line in logged)
    assert [held for held in checking.warn_of_old_snapshots(bench.ctx) if held.name == "a report"] == []
    stranger.rollback()
    assert find_report(bench.ctx) == []


def test_a_prepared_transaction_is_seen_where_the_server_has_them(bench, stranger):
    if stranger.execute("SHOW max_prepared_transactions").fetchone() == ("0",):
        pytest.skip("this server has max_prepared_transactions = 0")
    stranger.execute("INSERT INTO ticks (name) VALUES ('prepared')")
    stranger.execute("PREPARE TRANSACTION 'left behind'")
    assert ("prepared", "left behind") in [(h.kind, h.name) for h in checking.warn_of_old_snapshots(bench.ctx)]
    stranger.execute("ROLLBACK PREPARED 'left behind'")
