"""What pages read of batches: kept minutes, tries under way, and the rows of the list."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobClass
from batchinfer.services import work
from batchinfer.store import batches, jobs, pages_batches, pages_causes, queue
from batchinfer.store.claims import INFER
from batchinfer.store.horizons import Horizons
from batchinfer.store.session import read_now

if TYPE_CHECKING:
    from uuid import UUID


def put(bench: Any, count: int, **more: Any) -> UUID:
    """A batch whose lines are jobs that are ready."""
    batch_id, tenant_id = new_id(), bench.caller.tenant_id
    new = batches.NewBatch(
        batch_id, tenant_id, JobClass.NORMAL, "/v1/jobs", "24h", timedelta(hours=24), None, {}, {}, **more
    )
    lines = [
        jobs.NewJob(
            new_id(), tenant_id, "reader", JobClass.NORMAL, {"messages": [], "images": []}, batch_id=batch_id,
            line=number, custom_id=f"line-{number}",
        )
        for number in range(1, count + 1)
    ]  # fmt: skip
    with bench.ctx.db.transaction() as tx:
        batches.insert_batch(tx, new)
        batches.begin_batch(tx, batch_id, total=count, model="reader")
        batches.advance_batch(tx, batch_id, count)
        jobs.insert_jobs(tx, lines)
        queue.enqueue(tx, [queue.Entry(job.id, INFER, tenant_id, "reader", JobClass.NORMAL) for job in lines])
    return batch_id


def test_minutes_of_a_batch_are_its_counts(bench):
    one, other = put(bench, 4), put(bench, 2)
    lease = bench.open()
    claims = bench.claim(lease)
    bench.complete(lease, claims[:3])
    work.fail(bench.ctx, lease, [bench.ending(claim) for claim in claims[3:]])
    with bench.ctx.db.transaction() as tx:
        until = read_now(tx)
        minutes = {
            batch_id: pages_batches.list_minutes(tx, batch_id, until=until, count=60) for batch_id in (one, other)
        }
        recent = pages_batches.sum_recent(tx, [one, other], 10)
        held = batches.load_batches(tx, [one, other])
    assert recent == {one: 4, other: 2}
    for batch_id, found in minutes.items():
        counts = held[batch_id].batch.counts
        assert (sum(minute.succeeded for minute in found), sum(minute.failed for minute in found)) == (
            counts.completed, counts.failed,
        )  # fmt: skip
    assert sum(held[batch_id].batch.counts.completed for batch_id in (one, other)) == 3


def test_minutes_go_with_their_batch(bench):
    batch_id = put(bench, 1)
    lease = bench.open()
    bench.complete(lease, bench.claim(lease))
    assert len(bench.rows("batch_minutes", batch_id=batch_id)) == 1
    bench.run("UPDATE batches SET status = 'completed'")
    with bench.ctx.db.transaction() as tx:
        assert batches.forget_ended(tx, before=Horizons(new_id())) == 1
    assert bench.rows("batch_minutes") == []


def test_what_is_tried_again_is_counted_waiting_running_and_paused(bench):
    batch_id, other = put(bench, 3), put(bench, 1)
    lease = bench.open()
    claims = bench.claim(lease, limit=2)
    work.fail(bench.ctx, lease, [bench.ending(claim, transient=True) for claim in claims])

    def count() -> dict[UUID, int]:
        with bench.ctx.db.transaction() as tx:
            return pages_batches.count_retrying(tx, [batch_id, other])

    assert count() == {batch_id: 2}
    bench.make_due()
    bench.claim(lease, limit=1)
    assert count() == {batch_id: 2}, "one of them runs"
    bench.run("UPDATE queue SET state = 'paused' WHERE state = 'queued'")
    assert count() == {batch_id: 2}
    bench.run("UPDATE batches SET model = NULL")
    assert count() == {batch_id: 2}, "of several models"


def test_rows_of_the_list_are_a_tenants_own(bench):
    batch_id = put(bench, 1)
    with bench.ctx.db.transaction() as tx:
        assert [row.batch.id for row in pages_batches.list_rows(tx, bench.caller.tenant_id)[0]] == [batch_id]
        assert pages_batches.list_rows(tx, new_id()) == ([], False)
        assert pages_batches.find_row(tx, new_id(), batch_id) is None


def test_a_look_at_causes_ends_and_says_so(bench, monkeypatch):
    monkeypatch.setattr(pages_causes, "LOOK", 2)
    batch_id = put(bench, 3)
    lease = bench.open()
    work.fail(bench.ctx, lease, [bench.ending(claim) for claim in bench.claim(lease)])
    with bench.ctx.db.transaction() as tx:
        batch = batches.load_batches(tx, [batch_id])[batch_id].batch
        (one,), whole = pages_causes.list_failed(tx, batch)
    assert (one.cause.code, one.cause.count, one.cause.line, whole) == ("went_wrong", 2, 1, False)
    assert one.cause.custom_id == "line-1"
