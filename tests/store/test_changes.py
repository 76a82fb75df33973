"""Changes of state: every one told once, in an order that loses none, whoever commits when."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from batchinfer.domain.changes import Position
from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.jobs import JobState
from batchinfer.errors import BadRequest
from batchinfer.services import changes, repeats, sweeping, upkeep, work
from batchinfer.services import jobs as job_services
from batchinfer.store import changes as store
from batchinfer.store.claims import PREPARE


def read_all(bench, after=None, limit=3):
    """Everything behind a position, page by page, and where to go on."""
    found = []
    while True:
        page = changes.list_changes(bench.ctx, bench.caller, after, limit=limit)
        found += page.data
        after = page.after
        if not page.has_more:
            return found, after


def tell(bench, job_id, state="queued", tenant_id=DEFAULT_TENANT):
    with bench.ctx.db.transaction() as tx:
        store.tell_jobs(tx, [(tenant_id, state, job_id)])


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**48 - 1), st.integers(0, 2**16 - 1))
def test_a_position_is_an_id_and_sorts_as_it(xid, seq, place):
    here = Position(xid, seq, place)
    assert Position.parse(here.as_id()) == here
    assert here <= Position.behind(xid)
    if xid:
        assert Position.behind(xid - 1).as_id() < here.as_id()


def test_every_end_is_told_once(bench):
    done, failed, cancelled, expired, retried, waits = bench.put(6)
    (prepares,) = bench.put(kind=PREPARE)
    lease = bench.open()
    claims = {claim.id: claim for claim in bench.claim(lease, 5)}
    errors = [bench.ending(claims[failed]), bench.ending(claims[retried], transient=True)]
    work.complete_group(bench.ctx, lease, [bench.outcome(claims[done])], errors)
    work.complete_group(bench.ctx, lease, [bench.outcome(claims[done])], errors)  # as after a commit without an answer
    job_services.cancel_job(bench.ctx, bench.caller, cancelled)
    job_services.cancel_job(bench.ctx, bench.caller, cancelled)
    bench.run("UPDATE queue SET expires_at = now() WHERE id = :id", id=expired)
    upkeep.expire(bench.ctx)
    (claim,) = bench.claim(lease, kinds=[PREPARE])
    work.mark_prepared(bench.ctx, lease, claim, [{"sha256": "0" * 64, "normal": {"sha256": "1" * 64}}])
    repeats.delete_job(bench.ctx, bench.caller, failed)
    found, _ = read_all(bench)
    told = {job_id: [c.state for c in found if c.subject_id == job_id] for job_id in (c.subject_id for c in found)}
    assert told == {
        done: ["queued", "succeeded"], failed: ["queued", "failed", "deleted"], cancelled: ["queued", "cancelled"],
        expired: ["queued", "expired"], retried: ["queued", "queued"], waits: ["queued"],
        prepares: ["preparing", "queued"],
    }  # fmt: skip
    assert [c.position for c in found] == sorted({c.position for c in found})


def test_lost_workers_quarantine_and_release_are_told(bench):
    (job_id,) = bench.put()
    lease = bench.open()
    bench.claim(lease)
    work.end_lease(bench.ctx, lease, "killed", clean=False)
    bench.make_due()
    lease = bench.open()
    bench.claim(lease)
    bench.run("UPDATE queue SET attempt = 9, crashes = 8, suspected = 8")
    work.end_lease(bench.ctx, lease, "killed", clean=False)
    job_services.release_job(bench.ctx, bench.caller, job_id)
    assert [c.state for c in read_all(bench)[0]] == ["queued", "queued", "quarantined", "queued"]
    assert bench.job(job_id).state is JobState.QUEUED


def test_a_batch_is_told_whoever_changes_it(bench):
    batch_id = new_id()
    bench.run(
        "INSERT INTO batches (id, tenant_id, endpoint, completion_window, input_file_id, expires_at)"
        " VALUES (:id, :t, 'x', '24h', :id, now())", id=batch_id, t=DEFAULT_TENANT,
    )  # fmt: skip
    for status in ("in_progress", "in_progress", "finalizing", "completed"):
        bench.run("UPDATE batches SET status = :status, lines_read = lines_read + 1", status=status)
    found, _ = read_all(bench)
    assert [(c.subject, c.subject_id, c.state) for c in found] == [
        ("batch", batch_id, state) for state in ("validating", "in_progress", "finalizing", "completed")
    ]


def test_who_follows_misses_nothing_that_commits_late(bench):
    early, late, other = new_id(), new_id(), new_id()
    with bench.ctx.db.transaction() as open_tx:
        store.tell_jobs(open_tx, [(DEFAULT_TENANT, "queued", late)])
        tell(bench, early)
        found, after = read_all(bench)
        assert found == [], "what is newer than a transaction under way waits for it"
    found, after = read_all(bench, after)
    assert [c.subject_id for c in found] == [late, early]
    assert read_all(bench, after)[0] == []
    tell(bench, other)
    assert [c.subject_id for c in read_all(bench, after)[0]] == [other]


def test_what_was_rolled_back_is_not_told(bench):
    with bench.ctx.db.transaction() as tx, tx.begin_nested() as inner:
        store.tell_jobs(tx, [(DEFAULT_TENANT, "queued", new_id())])
        inner.rollback()
    assert read_all(bench)[0] == []


def test_many_writers_and_a_reader(bench):
    """Transactions that overlap and end in any order, some rolled back, while somebody follows."""
    told, done = [[] for _ in range(6)], threading.Event()

    def write(number):
        chance = random.Random(number)
        for _ in range(25):
            ids = [new_id() for _ in range(chance.randint(1, 5))]
            with bench.ctx.db.transaction() as tx:
                store.tell_jobs(tx, [(DEFAULT_TENANT, "queued", job_id) for job_id in ids])
                time.sleep(chance.random() * 0.01)
                if chance.random() < 0.2:
                    tx.rollback()
                    ids = []
            told[number] += ids

    def read():
        found, after = read_all(bench)
        while not done.is_set():
            more, after = read_all(bench, after)
            found += more
        more, _ = read_all(bench, after)
        return found + more

    with ThreadPoolExecutor(7) as pool:
        reader = pool.submit(read)
        for writer in [pool.submit(write, number) for number in range(6)]:
            writer.result()
        done.set()
        found = reader.result()
    expected = Counter(job_id for ids in told for job_id in ids)
    assert Counter(c.subject_id for c in found) == expected
    assert [c.position for c in found] == sorted(c.position for c in found)
    for ids in told:
        assert [c.subject_id for c in found if c.subject_id in set(ids)] == ids


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_cut_within_a_row_bring_each_once(bench, limit):
    ids = bench.put(7)
    found, _ = read_all(bench, limit=limit)
    assert [c.subject_id for c in found] == ids


def test_a_tenant_gets_its_own(bench):
    tell(bench, new_id(), tenant_id=new_id())
    found, after = read_all(bench)
    assert found == []
    assert after.xid > 0, "and goes on behind what others did"


def test_old_changes_are_dropped_and_a_cursor_behind_them_is_refused(bench):
    first, second, third = new_id(), new_id(), new_id()
    tell(bench, first)
    (before,), _ = read_all(bench)
    tell(bench, second)
    bench.run("UPDATE changes SET created_at = now() - interval '8 days'")
    tell(bench, third)
    assert sweeping.drop_changes(bench.ctx) == 2
    found, after = read_all(bench)
    assert [c.subject_id for c in found] == [third]
    with pytest.raises(BadRequest) as refused:
        changes.list_changes(bench.ctx, bench.caller, before.position)
    assert refused.value.code == "cursor_expired"
    assert read_all(bench, after)[0] == []
    assert sweeping.drop_changes(bench.ctx) == 0
    with bench.ctx.db.transaction() as tx:
        assert store.drop_changes(tx, timedelta(0), limit=1) == 0, "the last transaction stays: it is the horizon"


def test_a_cursor_of_another_database_is_refused(bench):
    with pytest.raises(BadRequest) as refused:
        changes.list_changes(bench.ctx, bench.caller, Position(2**62, 1, 1))
    assert refused.value.code == "invalid_cursor"
    end = changes.find_end(bench.ctx, bench.caller)
    assert changes.list_changes(bench.ctx, bench.caller, end).data == []


def test_it_is_one_row_a_transaction_and_state(bench):
    ids = bench.put(50)
    lease = bench.open()
    bench.complete(lease, bench.claim(lease))
    with bench.ctx.db.transaction() as tx:
        rows = tx.execute(text("SELECT state, cardinality(ids) AS number FROM changes ORDER BY xid")).all()
    assert [tuple(row) for row in rows] == [("queued", 50), ("succeeded", 50)]
    assert len(read_all(bench, limit=100)[0]) == 2 * len(ids)
