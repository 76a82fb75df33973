"""A real CPU worker delivers what is in the outbox, again where it must."""

from __future__ import annotations

from typing import Any

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.services import outbox
from batchinfer.store import outbox as store


def put(work: Any, subject_id: Any, kind: str = "log") -> Any:
    new = outbox.NewDelivery(DEFAULT_TENANT, kind, "job", subject_id, {"state": "succeeded"})
    with work.ctx.db.transaction() as tx:
        (event_id,) = outbox.put(work.ctx, tx, [new])
    work.ctx.announcer.announce_cpu([event_id])
    return event_id


def find(work: Any, subject_id: Any) -> store.Delivery:
    with work.ctx.db.transaction() as tx:
        (found,) = store.list_deliveries(tx, DEFAULT_TENANT, subject_id)
    return found


def test_a_cpu_worker_delivers_and_gives_up_what_it_cannot(work, launcher, until, sql) -> None:
    subject_id, other_id = new_id(), new_id()
    event_id, unknown_id = put(work, subject_id), put(work, other_id)
    sql("UPDATE outbox SET kind = 'pigeon' WHERE id = %s", unknown_id)
    process = launcher.start_cpu("--processes", "1")
    until(lambda: find(work, subject_id).final_state, "the delivery ends")
    until(lambda: find(work, other_id).final_state, "the other one ends")
    assert find(work, subject_id).final_state == "succeeded"
    assert (find(work, other_id).final_state, find(work, other_id).error["code"]) == ("failed", "no_deliverer")
    until(lambda: str(event_id) in process.read_log(), "the log says that it was delivered under its own id")
