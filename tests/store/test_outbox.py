"""What leaves the system: kept with what it tells of, delivered at least once, given up with its row kept."""

from __future__ import annotations

import pytest

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.retries import RetryClass, find_rule
from batchinfer.errors import Unavailable
from batchinfer.services import outbox, upkeep, work
from batchinfer.store import outbox as store
from batchinfer.store.claims import DELIVER, Ending


@pytest.fixture
def put(bench):
    def put(number=1, **more):
        new = [
            outbox.NewDelivery(DEFAULT_TENANT, "log", "job", more.get("subject_id", new_id()), {"number": n})
            for n in range(number)
        ]
        with bench.ctx.db.transaction() as tx:
            return outbox.put(bench.ctx, tx, new)

    return put


def claim(bench, lease, limit=10):
    return bench.claim(lease, limit, kinds=[DELIVER], model=None)


def find(bench, subject_id):
    with bench.ctx.db.transaction() as tx:
        return store.list_deliveries(tx, DEFAULT_TENANT, subject_id)


def fail(bench, lease, claim, retry):
    error = Unavailable("The receiver does not answer.").as_dict()
    return work.fail(bench.ctx, lease, [Ending(claim.id, claim.attempt, error, retry)])


def test_a_delivery_is_kept_or_lost_with_what_it_tells_of(bench):
    new = outbox.NewDelivery(DEFAULT_TENANT, "log", "job", new_id(), {})

    def roll_back():
        with bench.ctx.db.transaction() as tx:
            assert len(outbox.put(bench.ctx, tx, [new])) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        roll_back()
    assert (bench.rows("outbox"), bench.rows("queue")) == ([], [])
    with bench.ctx.db.transaction() as tx:
        assert outbox.put(bench.ctx, tx, []) == []


def test_a_kind_that_nobody_delivers_cannot_be_put(bench):
    unknown = outbox.NewDelivery(DEFAULT_TENANT, "pigeon", "job", new_id(), {})
    with bench.ctx.db.transaction() as tx, pytest.raises(ValueError, match="pigeon"):
        outbox.put(bench.ctx, tx, [unknown])


def test_it_is_claimed_loaded_and_finished_under_a_fence(bench, put):
    subject_id = new_id()
    (event_id,) = put(subject_id=subject_id)
    lease = bench.open()
    (held,) = claim(bench, lease)
    (piece,) = work.load_claims(bench.ctx, [held])
    assert (piece.delivery.id, piece.delivery.payload, piece.delivery.attempts) == (event_id, {"number": 0}, 1)
    assert outbox.finish_delivery(bench.ctx, lease, held)
    assert not outbox.finish_delivery(bench.ctx, lease, held), "once"
    (kept,) = find(bench, subject_id)
    assert (kept.final_state, kept.attempts, kept.error) == ("succeeded", 1, None)
    assert bench.rows("queue") == []
    assert [row.outcome for row in bench.rows("attempts", job_id=event_id)] == ["succeeded"]
    assert bench.rows("minutes") == [], "deliveries are no jobs"


def test_the_same_event_comes_again_after_a_lost_worker_and_the_zombie_is_refused(bench, put):
    (event_id,) = put()
    dead, alive = bench.open("dead"), bench.open("alive")
    (old,) = claim(bench, dead)
    bench.run("UPDATE leases SET heartbeat_at = now() - interval '1 hour' WHERE id = :id", id=dead)
    assert work.reap(bench.ctx) == 1
    bench.make_due()
    (again,) = claim(bench, alive)
    (piece,) = work.load_claims(bench.ctx, [again])
    assert (again.id, piece.delivery.id, piece.delivery.attempts) == (event_id, event_id, 1)
    assert not outbox.finish_delivery(bench.ctx, dead, old)
    assert outbox.finish_delivery(bench.ctx, alive, again)
    assert bench.rows("minutes") == []


def test_it_is_tried_again_by_its_rule_and_then_given_up_with_its_row_kept(bench, put):
    subject_id = new_id()
    put(subject_id=subject_id)
    lease, rule = bench.open(), find_rule(RetryClass.DELIVERY, bench.ctx.settings)
    for number in range(1, rule.tries + 1):
        bench.make_due()
        (held,) = claim(bench, lease)
        group = fail(bench, lease, held, RetryClass.DELIVERY)
        assert bool(group.retried) is (number < rule.tries)
    (kept,) = find(bench, subject_id)
    assert (kept.final_state, kept.attempts) == ("failed", rule.tries)
    assert kept.error["code"] == "service_unavailable"
    assert bench.rows("queue") == []


def test_what_another_time_will_not_help_ends_at_once(bench, put):
    subject_id = new_id()
    put(subject_id=subject_id)
    lease = bench.open()
    (held,) = claim(bench, lease)
    assert fail(bench, lease, held, RetryClass.PERMANENT).failed
    assert find(bench, subject_id)[0].final_state == "failed"


def test_after_its_time_it_expires_with_its_row_kept(bench, put):
    subject_id = new_id()
    (event_id,) = put(subject_id=subject_id)
    row = bench.row("queue", id=event_id)
    assert (row.expires_at - row.created_at).total_seconds() == bench.ctx.settings.delivery_hours * 3600
    bench.run("UPDATE queue SET expires_at = now() - interval '1 second'")
    assert upkeep.expire(bench.ctx) == 1
    assert find(bench, subject_id)[0].final_state == "expired"
    assert [row.subject for row in bench.rows("events", subject_id=event_id)] == ["delivery"]


def test_what_kills_its_workers_is_quarantined(bench, put):
    subject_id = new_id()
    put(subject_id=subject_id)
    for _ in range(3):
        bench.make_due()
        lease = bench.open()
        assert claim(bench, lease)
        work.end_lease(bench.ctx, lease, "killed", clean=False)
    assert find(bench, subject_id)[0].final_state == "quarantined"


def test_one_whose_row_is_gone_fails_alone(bench, put):
    gone, here = put(2)
    bench.run("DELETE FROM outbox WHERE id = :id", id=gone)
    lease = bench.open()
    assert [piece.claim.id for piece in work.load_claims(bench.ctx, claim(bench, lease))] == [here]
