"""A batch paused, resumed and given another class: from the next claim on, whatever is read or comes back meanwhile."""

from __future__ import annotations

import io
import json
import threading

import pytest

from batchinfer.domain.batches import BatchState, parse_batch
from batchinfer.domain.ids import FILE, new_id, show_id
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.domain.userfiles import FileRequest
from batchinfer.errors import BadRequest, Forbidden, NotFound
from batchinfer.services import batch_controls, batches, jobs, reading, upkeep, userfiles, work
from batchinfer.services.context import Caller
from batchinfer.store import batch_pauses
from batchinfer.store.claims import INFER, PREPARE, READ

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA"
    "BJRU5ErkJggg=="
)


def create(bench, contents):
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "reader", "messages": [{"role": "user", "content": content}]}}
        for number, content in enumerate(contents)
    ]  # fmt: skip
    request = FileRequest("in.jsonl", "batch", None)
    raw = io.BytesIO("\n".join(map(json.dumps, lines)).encode())
    file = userfiles.upload_file(bench.ctx, bench.caller, request, raw)[0]
    body = {"input_file_id": show_id(FILE, file.id), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return batches.create_batch(bench.ctx, bench.caller, parse_batch(body))[0]


def read(bench):
    (claim,) = bench.claim(bench.open("cpu"), kinds=[READ], model=None)
    assert reading.read_batch(bench.ctx, claim, lambda action: action(), lambda: True)


def look(bench, batch):
    return batches.get_batch(bench.ctx, bench.caller, batch.id)


@pytest.fixture
def batch(bench):
    """A batch of nine lines, read."""
    made = create(bench, ["read"] * 9)
    read(bench)
    return look(bench, made)


def states(bench):
    return sorted(row.state for row in bench.rows("queue", kind="infer"))


def pause(bench, batch):
    return batch_controls.pause_batch(bench.ctx, bench.caller, batch.id)


def resume(bench, batch):
    return batch_controls.resume_batch(bench.ctx, bench.caller, batch.id)


def test_a_pause_holds_from_the_next_claim_on_and_what_is_held_ends(bench, batch, monkeypatch):
    monkeypatch.setattr(batch_pauses, "PIECE", 2)
    lease = bench.open()
    held = bench.claim(lease, 2)
    (other,) = bench.put()
    assert "paused_at" in pause(bench, batch).times
    assert [claim.id for claim in bench.claim(lease)] == [other]
    assert states(bench) == ["paused"] * 7 + ["running"] * 3
    assert bench.complete(lease, held).completed
    assert look(bench, batch).counts.completed == 2
    assert {jobs.get_job(bench.ctx, bench.caller, row.id).state for row in bench.rows("queue", state="paused")} == {
        JobState.QUEUED
    }
    assert "paused_at" not in resume(bench, batch).times
    assert len(bench.claim(lease)) == 7
    events = [(row.event, row.actor) for row in bench.rows("events", subject="batch")]
    assert events == [("paused", bench.caller.actor), ("resumed", bench.caller.actor)]


def test_what_comes_back_or_is_read_later_is_kept_back_too(bench):
    made = create(bench, ["read"] * 9)
    pause(bench, made)
    read(bench)
    assert states(bench) == ["paused"] * 9
    assert bench.claim(bench.open()) == []
    resume(bench, made)
    lease = bench.open()
    released, failed = bench.claim(lease, 1)[0], bench.claim(lease, 1)[0]
    pause(bench, made)
    work.release(bench.ctx, lease, [released])
    work.complete_group(bench.ctx, lease, [], [bench.ending(failed, transient=True)])
    assert states(bench) == ["paused"] * 9
    assert bench.claim(lease) == []


def test_a_picture_that_is_prepared_meanwhile_waits(bench):
    made = create(bench, [[{"type": "image_url", "image_url": {"url": PNG}}]])
    read(bench)
    lease = bench.open("cpu")
    (claim,) = bench.claim(lease, kinds=[PREPARE], model=None)
    pause(bench, made)
    normal = {"sha256": "0" * 64, "media_type": "image/png", "width": 1, "height": 1}
    assert work.mark_prepared(bench.ctx, lease, claim, [{"sha256": "0" * 64, "normal": normal}])
    assert bench.claim(bench.open(), kinds=[INFER]) == []
    resume(bench, made)
    assert len(bench.claim(bench.open(), kinds=[INFER])) == 1


def test_twice_is_as_once_and_a_paused_batch_can_be_cancelled(bench, batch):
    pause(bench, batch)
    pause(bench, batch)
    assert [row.event for row in bench.rows("events", subject="batch")] == ["paused"]
    batches.cancel_batch(bench.ctx, bench.caller, batch.id)
    assert look(bench, batch).counts.cancelled == 9
    assert bench.rows("queue", kind="infer") == []
    with pytest.raises(BadRequest) as refused:
        resume(bench, batch)
    assert refused.value.code == "batch_not_pausable"


def test_a_paused_batch_expires(bench, batch):
    pause(bench, batch)
    bench.run("UPDATE queue SET expires_at = now() - interval '1 s'")
    upkeep.expire(bench.ctx)
    assert look(bench, batch).counts.expired == 9


def test_what_slipped_past_is_put_right_by_upkeep(bench, batch):
    """As a row does that came back in the very moment of the pause, or of the resume."""
    pause(bench, batch)
    bench.run("UPDATE queue SET state = 'queued' WHERE kind = 'infer'")
    assert batch_controls.mend_pauses(bench.ctx) == 9
    assert states(bench) == ["paused"] * 9
    assert batch_controls.mend_pauses(bench.ctx) == 0
    bench.run("UPDATE batches SET paused_at = NULL")
    assert batch_controls.mend_pauses(bench.ctx) == 9
    assert states(bench) == ["queued"] * 9


def test_pauses_beside_claims_and_results_lose_and_repeat_nothing(bench):
    """Nobody waits in a circle, and every line ends once."""
    made = create(bench, ["read"] * 400)
    read(bench)
    stop = threading.Event()

    def flip():
        while not stop.is_set():
            pause(bench, made)
            resume(bench, made)

    flipper = threading.Thread(target=flip)
    flipper.start()
    try:
        lease, idle = bench.open(), 0
        while idle < 200:
            claims = bench.claim(lease, 7)
            idle = 0 if claims else idle + 1
            if claims:
                work.release(bench.ctx, lease, claims[:1])
                bench.complete(lease, claims[1:])
            if look(bench, made).counts.completed >= 390:
                break
    finally:
        stop.set()
        flipper.join()
    resume_if_live(bench, made)
    batch_controls.mend_pauses(bench.ctx)
    lease = bench.open("w2")
    while claims := bench.claim(lease):
        bench.complete(lease, claims)
    assert look(bench, made).counts.completed == 400
    assert look(bench, made).status is BatchState.FINALIZING
    assert len(bench.rows("results")) == 400


def resume_if_live(bench, batch):
    if look(bench, batch).status is BatchState.IN_PROGRESS:
        resume(bench, batch)


def test_a_change_of_class_reaches_what_waits_and_what_is_still_to_be_read(bench, monkeypatch):
    monkeypatch.setattr(batch_pauses, "PIECE", 2)
    made = create(bench, ["read"] * 9)
    batch_controls.reclass_batch(bench.ctx, bench.caller, made.id, JobClass.NORMAL)
    read(bench)
    assert {row._mapping["class"] for row in bench.rows("queue", kind="infer")} == {"normal"}
    batch_controls.reclass_batch(bench.ctx, bench.caller, made.id, JobClass.INTERACTIVE)
    (plain, *_) = bench.put()
    lease = bench.open()
    assert plain not in {claim.id for claim in bench.claim(lease, 9)}
    assert {row._mapping["class"] for row in bench.rows("jobs", batch_id=made.id)} == {"interactive"}


def test_others_neither_see_nor_steer_it(bench, batch):
    stranger = Caller(new_id(), new_id(), "stranger", bench.caller.scopes)
    reader = Caller(bench.caller.tenant_id, new_id(), "reader", frozenset({"read"}))
    for verb in (batch_controls.pause_batch, batch_controls.resume_batch):
        with pytest.raises(NotFound):
            verb(bench.ctx, stranger, batch.id)
        with pytest.raises(Forbidden):
            verb(bench.ctx, reader, batch.id)
    assert states(bench) == ["queued"] * 9
