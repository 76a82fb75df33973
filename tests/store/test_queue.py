"""Claims: who gets which row, and who gets none."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.services import work
from batchinfer.store import claiming, endings, jobs, queue
from batchinfer.store.claims import INFER, PREPARE, RENDER
from batchinfer.store.session import Database
from batchinfer.store.tables import SCHEMA_VERSION
from batchinfer.store.turns import Turns

if TYPE_CHECKING:
    from uuid import UUID


def test_a_claim_holds_the_oldest_rows(bench):
    ids = bench.put(5)
    lease = bench.open()
    claims = bench.claim(lease, 3)
    assert [claim.id for claim in claims] == ids[:3]
    assert {(c.attempt, c.crashes, c.released, c.lease_id, c.kind) for c in claims} == {(1, 0, 0, lease, INFER)}
    assert [bench.job(i).state for i in ids] == [JobState.RUNNING] * 3 + [JobState.QUEUED] * 2
    assert bench.job(ids[0]).started_at is not None
    assert bench.job(ids[4]).started_at is None
    assert bench.job(ids[0]).attempts == 1


def test_what_is_held_is_not_claimed_again(bench):
    bench.put(2)
    first, second = bench.open("a"), bench.open("b")
    assert len(bench.claim(first)) == 2
    assert bench.claim(second) == []


def test_a_dead_lease_claims_nothing(bench):
    bench.put()
    lease = bench.open()
    work.end_lease(bench.ctx, lease, "stopped")
    assert bench.claim(lease) == []
    assert bench.claim(new_id()) == []


def test_other_kinds_models_and_times_are_passed_over(bench):
    bench.put(kind=PREPARE)
    bench.put(model="other")
    late = bench.put()
    bench.run("UPDATE queue SET available_at = now() + interval '1 hour' WHERE id = :id", id=late[0])
    bench.put(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    lease = bench.open()
    assert bench.claim(lease) == []
    assert [claim.model for claim in bench.claim(lease, kinds=(INFER,), model="other")] == ["other"]
    found = bench.claim(lease, kinds=(PREPARE, RENDER), model=None)
    assert [claim.kind for claim in found] == [PREPARE]


def test_all_models_and_kinds_at_once(bench):
    for model in ("a", "b", "c"):
        bench.put(2, kind=PREPARE, model=model)
        bench.put(2, kind=INFER, model=model)
    claims = bench.claim(bench.open(), kinds=(INFER, PREPARE), model=None)
    assert Counter((claim.kind, claim.model) for claim in claims) == {
        (kind, model): 2 for kind in (INFER, PREPARE) for model in ("a", "b", "c")
    }


def test_rows_of_a_newer_schema_are_left_alone(bench):
    newer, ours = bench.put(2)
    bench.run("UPDATE queue SET schema_version = :v WHERE id = :id", v=SCHEMA_VERSION + 1, id=newer)
    assert [claim.id for claim in bench.claim(bench.open())] == [ours]
    assert bench.job(newer).state is JobState.QUEUED


def test_workers_of_the_newer_schema_take_both(bench, monkeypatch):
    newer, ours = bench.put(2)
    bench.run("UPDATE queue SET schema_version = :v WHERE id = :id", v=SCHEMA_VERSION + 1, id=newer)
    monkeypatch.setattr("batchinfer.store.queue.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    assert {claim.id for claim in bench.claim(bench.open())} == {newer, ours}


def test_what_is_put_back_by_an_older_process_stays_a_row_of_the_newer_schema(bench):
    """An old web server releases a job of a newer one: old workers must not get at it that way."""
    (newer,) = bench.put()
    bench.run("DELETE FROM queue WHERE id = :id", id=newer)
    end = "UPDATE jobs SET schema_version = :v, final_state = 'quarantined', error = '{}', finished_at = now()"
    bench.run(f"{end} WHERE id = :id", v=SCHEMA_VERSION + 1, id=newer)
    with bench.ctx.db.transaction() as tx:
        assert jobs.release_quarantined(tx, DEFAULT_TENANT, newer, suspected=2)
    assert bench.claim(bench.open()) == []
    assert bench.job(newer).state is JobState.QUEUED


def test_excluded_rows_are_left_alone(bench):
    first, second = bench.put(2)
    claims = work.claim(bench.ctx, lease_id=bench.open(), kinds=[INFER], model="reader", limit=5, exclude_ids=[first])
    assert [claim.id for claim in claims] == [second]


def test_urgent_classes_come_first(bench):
    classes = (JobClass.BATCH, JobClass.NORMAL, JobClass.INTERACTIVE)
    batch, normal, interactive = (bench.put(job_class=job_class)[0] for job_class in classes)
    claims = bench.claim(bench.open())
    assert [claim.id for claim in claims] == [interactive, normal, batch]
    assert claims[0].job_class is JobClass.INTERACTIVE


def test_tenants_take_turns_whatever_their_backlog(bench):
    big, small, other = new_id(), new_id(), new_id()
    bench.put(500, tenant_id=big)
    bench.put(3, tenant_id=small)
    bench.put(40, tenant_id=other)
    lease = bench.open()
    claims = bench.claim(lease, 30)
    assert Counter(claim.tenant_id for claim in claims) == {big: 14, small: 3, other: 13}
    assert [claim.tenant_id for claim in claims[:3]].count(small) == 1
    urgent = bench.put(tenant_id=big, job_class=JobClass.INTERACTIVE)
    assert bench.claim(lease, 1)[0].id == urgent[0]


def test_a_lone_tenant_gets_all_that_fits(bench):
    lone = new_id()
    bench.put(300, tenant_id=lone)
    assert len(bench.claim(bench.open(), 256)) == 256


def test_many_workers_never_hold_the_same_row(bench):
    ids = bench.put(400)
    leases = [bench.open(f"w{n}") for n in range(12)]
    start = threading.Barrier(len(leases))

    def drain(lease: UUID) -> list[UUID]:
        start.wait()
        mine: list[UUID] = []
        for _ in range(1000):
            found = bench.claim(lease, 7)
            mine += [claim.id for claim in found]
            if not found and not any(row.state == "queued" for row in bench.rows("queue")):
                break
        return mine

    with ThreadPoolExecutor(len(leases)) as pool:
        held = list(pool.map(drain, leases))
    assert Counter(i for mine in held for i in mine) == Counter(ids)
    for lease, mine in zip(leases, held, strict=True):
        assert work.beat(bench.ctx, lease).held == {(i, 1) for i in mine}


def test_a_claim_passes_over_rows_that_another_transaction_locks(bench):
    locked, free = bench.put(2)
    with bench.ctx.db.transaction() as tx:
        queue.lock(tx, [locked])
        claims = bench.claim(bench.open())
        assert [claim.id for claim in claims] == [free]


def test_a_lease_cannot_end_between_a_claim_and_its_commit(bench):
    """The claim holds its lease, so that what it takes is given back by the end of that lease, not forgotten."""
    (job_id,) = bench.put()
    lease = bench.open()
    ended = threading.Event()

    def end() -> None:
        work.end_lease(bench.ctx, lease, "killed", clean=False)
        ended.set()

    with bench.ctx.db.transaction() as tx:
        assert len(queue.claim(tx, lease_id=lease, kinds=[INFER], model="reader", limit=1)) == 1
        other = threading.Thread(target=end)
        other.start()
        assert not ended.wait(0.3)
    other.join(timeout=20)
    assert ended.is_set()
    row = bench.row("queue", id=job_id)
    assert (row.state, row.lease_id, row.attempt, row.crashes) == ("queued", None, 1, 1)


def explain(bench, statement, **values):
    """The plan of a statement that was run (and rolled back), with what it read."""
    with bench.ctx.db.transaction() as tx, tx.begin_nested() as undo:
        row = tx.execute(text("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement.text), values).scalar_one()
        undo.rollback()
    return row[0]["Plan"]


def walk(plan):
    """A plan and all plans in it."""
    yield plan
    for inner in plan.get("Plans", ()):
        yield from walk(inner)


@pytest.mark.parametrize("model", ["reader", None])
def test_a_claim_reads_what_it_takes_and_not_the_backlog(bench, model):
    for tenant in [new_id() for _ in range(12)]:
        for other in ("a", "reader", "z"):
            bench.put(150, tenant_id=tenant, model=other)
    bench.run("ANALYZE queue")
    statement = claiming.CLAIM_ANY if model is None else claiming.CLAIM_MODEL
    values = {
        "kinds": [INFER],
        "limit": 16,
        "window": claiming.count_window(16),
        "excluded": [],
        "version": SCHEMA_VERSION,
    }
    values |= Turns().values(16)
    more = {} if model is None else {"model": model}
    plan = explain(bench, statement, lease_id=bench.open(), **values, **more)
    assert plan["Actual Rows"] == 16
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 4000, "of 5400 rows, stepping reads a few each"


@pytest.mark.parametrize("model", ["reader", None])
def test_a_claim_that_was_planned_while_nothing_waited_reads_no_more(bench, model):
    """Its plan is kept for as long as the connection lives, and an empty queue says nothing of a full one."""
    lease, turns = bench.open(), Turns()
    db = Database(bench.ctx.settings.require_database_url(), pool_size=1)
    fetched = text("SELECT coalesce(sum(idx_tup_fetch + seq_tup_read), 0) FROM pg_stat_xact_user_tables "
                   "WHERE relname = 'queue'")  # fmt: skip

    def claim():
        with db.transaction() as tx:
            found = queue.claim(tx, lease_id=lease, kinds=[INFER], model=model, limit=16, turns=turns)
            return len(found), tx.execute(fetched).scalar_one()

    try:
        assert {claim()[0] for _ in range(12)} == {0}
        for tenant in [new_id() for _ in range(10)]:
            for other in ("a", "reader", "z"):
                bench.put(150, tenant_id=tenant, model=other)
        for _ in range(3):
            number, rows = claim()
            assert number == 16
            assert rows < 1200, "of 4500"
    finally:
        db.dispose()


def test_a_completion_finds_its_rows_by_their_ids(bench):
    """The index by lease is the reaper's: with it, a completion would read all rows that the lease ever held."""
    bench.put(600)
    lease = bench.open()
    claims = bench.claim(lease, 600)
    bench.run("ANALYZE queue")
    plan = explain(
        bench,
        endings._COMPLETE,
        lease_id=lease,
        final="succeeded",
        outcome="succeeded",
        **endings._columns([bench.outcome(claim) for claim in claims[:32]]),
    )
    used = {step["Index Name"] for step in walk(plan) if step.get("Relation Name") == "queue" and "Index Name" in step}
    assert used == {"pk_queue"}
    assert plan["Actual Rows"] == 32


def test_a_claim_of_urgent_rows_takes_no_others(bench):
    bench.put(3, job_class=JobClass.BATCH)
    bench.put(3)
    tenants = [new_id() for _ in range(3)]
    urgent = [bench.put(2, job_class=JobClass.INTERACTIVE, tenant_id=tenant)[0] for tenant in tenants]
    bench.put(1, job_class=JobClass.INTERACTIVE, model="other")
    lease, turns = bench.open(), Turns()
    claims = []
    for _ in range(2):
        claims += work.claim(
            bench.ctx, lease_id=lease, kinds=[INFER], model="reader", limit=3, turns=turns, urgent_only=True
        )
    assert {claim.job_class for claim in claims} == {JobClass.INTERACTIVE}
    assert {claim.id for claim in claims[:3]} == set(urgent), "one of each tenant, then the next ones"
    assert len(claims) == 6
    again = work.claim(bench.ctx, lease_id=lease, kinds=[INFER], model="reader", limit=9, urgent_only=True)
    assert again == []
    assert len(bench.claim(lease)) == 6, "the others wait as before"
    with pytest.raises(ValueError, match="model"):
        work.claim(bench.ctx, lease_id=lease, kinds=[INFER], model=None, limit=9, urgent_only=True)


def test_a_claim_of_urgent_rows_costs_nothing_where_there_are_none(bench):
    for tenant in [new_id() for _ in range(40)]:
        bench.put(50, tenant_id=tenant, job_class=JobClass.BATCH)
    bench.run("ANALYZE queue")
    values = {
        "kinds": [INFER],
        "limit": 16,
        "window": claiming.count_window(16),
        "excluded": [],
        "version": SCHEMA_VERSION,
    }
    plan = explain(bench, claiming.CLAIM_URGENT, lease_id=bench.open(), model="reader", **values, **Turns().values(16))
    assert plan["Actual Rows"] == 0
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 40, "of 2000 rows"
