"""Acts on many jobs: asked for with an exact count, carried out in steps, resumed after a kill, cancelled half way."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.bulk_acts import BulkState, BulkVerb
from batchinfer.domain.ids import new_id
from batchinfer.domain.job_search import JobSearch
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.errors import BadRequest, Conflict, Forbidden, NotFound
from batchinfer.services import bulk_acts, bulk_work, keys, work
from batchinfer.store import job_search
from batchinfer.store.claims import Ending

if TYPE_CHECKING:
    from uuid import UUID


def fail(bench: Any, number: int) -> list[UUID]:
    ids = bench.put(number)
    lease = bench.open()
    work.fail(bench.ctx, lease, [bench.ending(claim) for claim in bench.claim(lease, number)])
    return sorted(ids)


def claim_act(bench: Any) -> Any:
    lease = work.open_lease(bench.ctx, role="cpu", worker="cpu@here", host="here", pid=os.getpid(), slots=1)
    (claim,) = bench.claim(lease, kinds=(work.ACT,), model=None)
    (piece,) = work.load_claims(bench.ctx, [claim])
    return piece.claim


def carry_out(bench: Any, claim: Any = None, *, steps: int = 1000) -> bool:
    left = iter(range(steps))
    return bulk_work.carry_out(
        bench.ctx, claim or claim_act(bench), lambda action: action(), lambda: next(left, None) is not None
    )


def ask(bench: Any, verb: BulkVerb, **how: Any) -> Any:
    return bulk_acts.ask_for(bench.ctx, bench.caller, verb, **how)[0]


def read(bench: Any, act: Any) -> Any:
    return bulk_acts.get_act(bench.ctx, bench.caller, act.id)


def acted(bench: Any) -> list[Any]:
    return [row for row in bench.rows("audit") if row.action.startswith("jobs.")]


def test_all_that_failed_are_tried_again_and_none_that_came_later(bench: Any) -> None:
    ids = fail(bench, 120)
    reach = bulk_acts.count_reach(bench.ctx, bench.caller, BulkVerb.RETRY, search=JobSearch(state=JobState.FAILED))
    assert (reach.number, reach.others, reach.up_to) == (120, 0, ids[-1])
    act = ask(bench, BulkVerb.RETRY, search=JobSearch(state=JobState.FAILED))
    assert (act.state, act.total) == (BulkState.QUEUED, 120)
    (later,) = fail(bench, 1)
    assert carry_out(bench)
    done = read(bench, act)
    assert (done.state, done.done, done.skipped, done.failed) == (BulkState.COMPLETED, 120, 0, 0)
    assert done.finished_at is not None
    assert bench.rows("queue", kind="act") == []
    assert len([row for row in bench.rows("jobs") if row.origin_id in ids]) == 120
    assert bench.job(ids[0]).retry_id is not None
    assert bench.job(later).retry_id is None
    assert [(row.action, row.data["total"]) for row in acted(bench)] == [("jobs.retry", 120)]
    assert len([row for row in bench.rows("events") if row.event == "retried"]) == 120
    assert bench.count("submitted") == 120


def test_named_jobs_of_all_states_are_cancelled_where_that_can_be(bench: Any) -> None:
    (ended,) = fail(bench, 1)
    queued, running = bench.put(2)
    bench.claim(bench.open(), 1)
    act = ask(bench, BulkVerb.CANCEL, ids=[ended, queued, running, new_id()])
    assert act.total == 3
    assert carry_out(bench)
    done = read(bench, act)
    assert (done.done, done.skipped, done.reasons) == (2, 2, {"job_not_cancellable": 2})
    assert {bench.job(one).state for one in (queued, running)} == {JobState.CANCELLED}


def test_deleting_all_leaves_what_has_not_ended(bench: Any) -> None:
    ended = fail(bench, 7)
    (live,) = bench.put()
    reach = bulk_acts.count_reach(bench.ctx, bench.caller, BulkVerb.DELETE, search=JobSearch())
    assert (reach.number, reach.others) == (7, 1)
    act = ask(bench, BulkVerb.DELETE, search=JobSearch())
    assert carry_out(bench)
    assert (read(bench, act).done, read(bench, act).skipped) == (7, 0)
    assert all(row.deleted_at for row in bench.rows("jobs") if row.id in ended)
    assert bench.job(live).state is JobState.QUEUED
    assert bulk_acts.count_reach(bench.ctx, bench.caller, BulkVerb.DELETE, search=JobSearch()).number == 0


def test_after_a_lost_worker_it_goes_on_where_it_was_and_counts_nothing_twice(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bulk_work.STEP, BulkVerb.RETRY, 10)
    fail(bench, 35)
    act = ask(bench, BulkVerb.RETRY, search=JobSearch(state=JobState.FAILED))
    first = claim_act(bench)
    assert not carry_out(bench, first, steps=2)
    half = read(bench, act)
    assert (half.state, half.done) == (BulkState.RUNNING, 20)
    work.end_lease(bench.ctx, first.lease_id, "killed", clean=False)
    bench.run("UPDATE queue SET available_at = now()")
    second = claim_act(bench)
    assert carry_out(bench, first), "the lost worker is refused"
    assert read(bench, act).done == 20
    assert carry_out(bench, second)
    assert (read(bench, act).state, read(bench, act).done) == (BulkState.COMPLETED, 35)
    assert bench.count("submitted") == 35
    assert len(bench.rows("jobs")) == 70


def test_a_step_that_fails_half_way_leaves_nothing(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = fail(bench, 5)
    act = ask(bench, BulkVerb.DELETE, search=JobSearch())
    claim = claim_act(bench)
    plain = bulk_work.repeats.delete_in

    def break_down(tx: Any, caller: Any, job_id: UUID) -> None:
        if job_id == ids[3]:
            raise RuntimeError("the process is gone")
        plain(tx, caller, job_id)

    monkeypatch.setattr(bulk_work.repeats, "delete_in", break_down)
    with pytest.raises(RuntimeError):
        carry_out(bench, claim)
    assert read(bench, act).looked_at == 0
    assert all(row.deleted_at is None for row in bench.rows("jobs"))
    monkeypatch.undo()
    assert carry_out(bench, claim)
    assert read(bench, act).done == 5


def test_it_can_be_cancelled_half_way_and_what_was_done_stays(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bulk_work.STEP, BulkVerb.CANCEL, 3)
    ids = sorted(bench.put(10))
    act = ask(bench, BulkVerb.CANCEL, search=JobSearch(model="reader"))
    claim = claim_act(bench)
    assert not carry_out(bench, claim, steps=1)
    ended = bulk_acts.cancel_act(bench.ctx, bench.caller, act.id)
    assert (ended.state, ended.done) == (BulkState.CANCELLED, 3)
    assert carry_out(bench, claim), "the fence refuses the next step"
    assert [bench.job(one).state for one in ids[2:4]] == [JobState.CANCELLED, JobState.QUEUED]
    with pytest.raises(Conflict) as refused:
        bulk_acts.cancel_act(bench.ctx, bench.caller, act.id)
    assert refused.value.code == "act_ended"
    assert [row.action for row in acted(bench)] == ["jobs.cancel", "jobs.act.cancel"]


def test_jobs_that_were_tried_again_meanwhile_are_left_out_with_the_reason(bench: Any) -> None:
    ids = fail(bench, 4)
    act = ask(bench, BulkVerb.RETRY, ids=ids)
    bulk_work.repeats.retry_job(bench.ctx, bench.caller, ids[1])
    assert carry_out(bench)
    done = read(bench, act)
    assert (done.done, done.skipped, done.failed, done.reasons) == (3, 1, 0, {"job_retried": 1})


def test_it_waits_for_room_and_then_goes_on(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(bench, 5)
    bench.run("DELETE FROM backlog")  # these were put there uncounted
    small = dataclasses.replace(bench.ctx, settings=bench.ctx.settings.model_copy(update={"quota_jobs": 3}))
    act = ask(bench, BulkVerb.RETRY, search=JobSearch(state=JobState.FAILED))
    waits: list[Any] = []

    def note_wait(_wanted: Any) -> None:
        waits.append(read(bench, act))
        lease = bench.open()
        for claim in bench.claim(lease):
            work.fail(bench.ctx, lease, [bench.ending(claim)])

    monkeypatch.setattr(bulk_work, "_wait", note_wait)
    assert bulk_work.carry_out(small, claim_act(bench), lambda action: action(), lambda: True)
    assert [(one.done, one.error["code"]) for one in waits] == [(3, "quota_exceeded")]
    assert (read(bench, act).state, read(bench, act).done, read(bench, act).error) == (BulkState.COMPLETED, 5, None)


def test_a_key_that_ended_meanwhile_stops_it(bench: Any, context: Any) -> None:
    fail(bench, 2)
    key, token = keys.create_key(context, "short", ["submit", "read", "cancel"])
    mine = keys.authenticate(context, token)
    act, _ = bulk_acts.ask_for(context, mine, BulkVerb.RETRY, search=JobSearch())
    keys.revoke_key(context, bench.caller, key.id)
    claim = claim_act(bench)
    with pytest.raises(Forbidden) as refused:
        carry_out(bench, claim)
    work.fail(context, claim.lease_id, [Ending(claim.id, claim.attempt, refused.value.as_dict())])
    ended = bulk_acts.get_act(context, bench.caller, act.id)
    assert (ended.state, ended.done) == (BulkState.FAILED, 0)
    assert "key" in ended.error["message"]
    assert len(bench.rows("jobs")) == 2


@pytest.mark.parametrize(
    ("verb", "how", "code"),
    [
        (BulkVerb.RETRY, {"ids": []}, "nothing_selected"),
        (BulkVerb.RETRY, {"search": JobSearch(state=JobState.QUEUED)}, "invalid_value"),
        (BulkVerb.DELETE, {"search": JobSearch(model="none")}, "nothing_to_do"),
    ],
)
def test_what_cannot_be_is_refused(bench: Any, verb: BulkVerb, how: dict[str, Any], code: str) -> None:
    bench.put()
    with pytest.raises(BadRequest) as refused:
        ask(bench, verb, **how)
    assert refused.value.code == code
    assert bench.rows("bulk_acts") == []
    assert acted(bench) == []


def test_acts_are_their_tenants_and_need_the_scope_of_the_verb(bench: Any) -> None:
    ids = fail(bench, 1)
    act = ask(bench, BulkVerb.RETRY, ids=ids)
    stranger = dataclasses.replace(bench.caller, tenant_id=new_id())
    with pytest.raises(NotFound):
        bulk_acts.get_act(bench.ctx, stranger, act.id)
    with pytest.raises(NotFound):
        bulk_acts.cancel_act(bench.ctx, stranger, act.id)
    assert bulk_acts.list_acts(bench.ctx, stranger).data == []
    assert [one.id for one in bulk_acts.list_acts(bench.ctx, bench.caller).data] == [act.id]
    assert bulk_acts.count_reach(bench.ctx, stranger, BulkVerb.RETRY, ids=ids).number == 0
    reader = dataclasses.replace(bench.caller, scopes=frozenset({"read"}))
    for action in (
        lambda: bulk_acts.count_reach(bench.ctx, reader, BulkVerb.DELETE, ids=ids),
        lambda: bulk_acts.ask_for(bench.ctx, reader, BulkVerb.RETRY, ids=ids),
        lambda: bulk_acts.cancel_act(bench.ctx, reader, act.id),
    ):
        with pytest.raises(Forbidden):
            action()


def test_counting_that_takes_too_long_says_what_to_narrow(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put(3)
    monkeypatch.setattr(job_search, "_conditions", lambda *_: [job_search.text("pg_sleep(20) IS NOT NULL")])
    with bench.ctx.db.transaction() as tx, pytest.raises(BadRequest) as refused:
        job_search.count_by_state(tx, bench.caller.tenant_id, JobSearch(), up_to=new_id(), seconds=0.2)
    assert refused.value.code == "too_many_to_count"


def test_every_filter_is_kept_with_the_act(bench: Any) -> None:
    bench.put(2, job_class=JobClass.BATCH)
    bench.put(1)
    wanted = JobSearch(
        model="reader", job_class=JobClass.BATCH, created_from=bench.rows("jobs")[0].created_at, metadata={}, words=None
    )
    act = ask(bench, BulkVerb.CANCEL, search=wanted)
    assert JobSearch.of(act.search) == wanted
    assert act.total == 2
    assert carry_out(bench)
    assert read(bench, act).done == 2


KILLED = """
import os, signal, sys
from uuid import UUID
from batchinfer.domain.bulk_acts import BulkVerb
from batchinfer.services import bulk_work, work
from batchinfer.services.context import open_context
from batchinfer.settings import load_settings
bulk_work.STEP[BulkVerb.CANCEL] = 5
ctx = open_context(load_settings(database_url=sys.argv[1], redis_url=sys.argv[2], home=sys.argv[3]))
lease = work.open_lease(ctx, role="cpu", worker="doomed", host="here", pid=os.getpid(), slots=1)
(claim,) = work.claim(ctx, lease_id=lease, kinds=["act"], model=None, limit=1)
begun = []
plain = bulk_work.endings.cancel
def cancel(*given, **named):
    ended = plain(*given, **named)
    begun.append(1)
    if len(begun) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return ended
bulk_work.endings.cancel = cancel
bulk_work.carry_out(ctx, claim, lambda action: action(), lambda: True)
"""


def test_a_kill_in_the_middle_of_a_step_loses_and_doubles_nothing(bench: Any, settings: Any) -> None:
    ids = sorted(bench.put(23))
    act = ask(bench, BulkVerb.CANCEL, search=JobSearch(state=JobState.QUEUED))
    where = [
        settings.require_database_url(), settings.require_redis_url(), str(settings.home)
    ]  # fmt: skip
    killed = subprocess.run([sys.executable, "-c", KILLED, *where], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    half = read(bench, act)
    assert (half.state, half.done, half.cursor) == (BulkState.RUNNING, 10, ids[9])
    assert bench.count("cancelled") == 10
    lease = next(row.id for row in bench.rows("leases") if row.worker == "doomed")
    work.end_lease(bench.ctx, lease, "killed", clean=False)
    bench.run("UPDATE queue SET available_at = now()")
    assert carry_out(bench)
    assert (read(bench, act).state, read(bench, act).done) == (BulkState.COMPLETED, 23)
    assert bench.count("cancelled") == 23
