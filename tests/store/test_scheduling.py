"""Who goes first: ageing, turns between tenants, weights, deadlines, pauses, changes of class."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.errors import Forbidden, NotFound
from batchinfer.services import quotas, scheduling, upkeep, work
from batchinfer.services.context import SCOPES, Caller
from batchinfer.store import keys, queue, reclassing
from batchinfer.store.claims import INFER, PREPARE, RENDER
from batchinfer.store.turns import Turns

INTERACTIVE, NORMAL, BATCH = JobClass


@pytest.fixture
def claim(bench):
    """Claim with turns that go on from claim to claim, as a worker does."""
    lease = bench.open()

    def claim(limit, turns, **more):
        given = {"kinds": (INFER,), "model": "reader"} | more
        return work.claim(bench.ctx, lease_id=lease, limit=limit, turns=turns, **given)

    return claim


def add_tenant(bench, name):
    """A tenant with a name, and a caller of it who may do all."""
    tenant_id = new_id()
    with bench.ctx.db.transaction() as tx:
        keys.ensure_tenant(tx, tenant_id, name)
    return Caller(tenant_id, new_id(), name, frozenset(SCOPES))


def make_old(bench, seconds=3600):
    bench.run("UPDATE queue SET created_at = now() - make_interval(secs => :s)", s=seconds)


# -- tenants -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 16])
def test_a_tenant_with_one_job_waits_for_one_round(bench, claim, limit):
    """Whatever the others have queued, and in claims of any size."""
    crowd = [new_id() for _ in range(4)]
    for tenant in crowd:
        bench.put(100, tenant_id=tenant)
    turns = Turns()
    claim(limit, turns)
    lone = new_id()
    (job_id,) = bench.put(tenant_id=lone)
    order = []
    while job_id not in order:
        order += [row.id for row in claim(limit, turns)]
    assert order.index(job_id) <= len(crowd)


def test_small_claims_serve_all_alike(bench, claim):
    tenants = [new_id() for _ in range(5)]
    for number, tenant in enumerate(tenants):
        bench.put(20 * (number + 1), tenant_id=tenant)
    turns = Turns()
    served = Counter(row.tenant_id for _ in range(50) for row in claim(1, turns))
    assert served == dict.fromkeys(tenants, 10)


def test_rounds_of_a_class_do_not_lose_their_place_to_another_class(bench, claim):
    """An interactive job between each two claims must not bring the round of the normal ones to its start."""
    tenants = [new_id() for _ in range(4)]
    for tenant in tenants:
        bench.put(20, tenant_id=tenant)
    turns, served = Turns(aged_share=0.0), Counter()
    for _ in range(20):
        urgent = bench.put(tenant_id=tenants[0], job_class=INTERACTIVE)
        assert [row.id for row in claim(1, turns)] == urgent
        served.update(row.tenant_id for row in claim(1, turns))
    assert served == dict.fromkeys(tenants, 5)


@pytest.mark.parametrize("limit", [1, 2, 7, 24])
def test_a_weight_is_a_larger_turn(bench, claim, limit):
    heavy, light = add_tenant(bench, "heavy").tenant_id, add_tenant(bench, "light").tenant_id
    quotas.set_quota(bench.ctx, bench.caller, "heavy", weight=3)
    for tenant in (heavy, light):
        bench.put(100, tenant_id=tenant)
    turns, served = Turns(), Counter()
    while served.total() < 64:
        served.update(row.tenant_id for row in claim(limit, turns))
    assert abs(served[heavy] - 3 * served[light]) <= 3


def test_more_tenants_than_a_claim_visits_are_all_served(bench, claim):
    tenants = [new_id() for _ in range(60)]
    for tenant in tenants:
        bench.put(2, tenant_id=tenant)
    turns = Turns()
    first = Counter(row.tenant_id for _ in range(15) for row in claim(4, turns))
    assert first == dict.fromkeys(tenants, 1)
    assert turns.values(4)["lanes"] < len(tenants)


def test_many_tenants_with_nothing_due_hide_nobody(bench, claim):
    for tenant in [new_id() for _ in range(40)]:
        bench.put(tenant_id=tenant)
    bench.run("UPDATE queue SET available_at = now() + interval '1 hour'")
    (due,) = bench.put(tenant_id=new_id())
    turns = Turns()
    turns._lanes_to_all = False  # as after a claim that found all it could take
    found = [row.id for _ in range(2) for row in claim(1, turns)]
    assert found == [due]


def test_a_claim_that_one_large_tenant_could_have_filled_says_so(bench, claim):
    """Among many small tenants a large one gives a few rows at a time; the next claim goes on at once."""
    large = new_id()
    bench.put(100, tenant_id=large)
    for _ in range(20):
        bench.put(tenant_id=new_id())
    turns = Turns()
    first = claim(32, turns)
    assert len(first) < 32
    assert turns.cut_short
    assert len(claim(32, turns)) == 32
    assert not turns.cut_short


# -- ageing ------------------------------------------------------------------------------------------------------------


def test_no_class_starves_and_the_first_keeps_its_share(bench, claim):
    tenants = [new_id() for _ in range(3)]
    for tenant in tenants:
        for job_class in JobClass:
            bench.put(100, tenant_id=tenant, job_class=job_class)
    make_old(bench)
    for limit in (1, 4, 16):
        turns = Turns(ageing_s=60, aged_share=0.25)
        served = Counter((row.job_class, row.tenant_id) for _ in range(96 // limit) for row in claim(limit, turns))
        by_class = Counter()
        for (job_class, _), number in served.items():
            by_class[job_class] += number
        assert 20 <= by_class[NORMAL] + by_class[BATCH] <= 24
        assert abs(by_class[NORMAL] - by_class[BATCH]) <= 4
        assert {tenant for job_class, tenant in served if job_class is BATCH} == set(tenants)


def test_what_has_not_waited_long_has_no_share(bench, claim):
    bench.put(50, job_class=INTERACTIVE)
    bench.put(50, job_class=BATCH)
    turns = Turns(ageing_s=60, aged_share=0.5)
    assert Counter(row.job_class for _ in range(40) for row in claim(1, turns)) == {INTERACTIVE: 40}


def test_a_share_that_nobody_used_is_not_saved_up(bench, claim):
    bench.put(100, job_class=INTERACTIVE)
    turns = Turns(ageing_s=60, aged_share=0.5)
    for _ in range(10):
        claim(4, turns)
    bench.put(100, job_class=BATCH)
    make_old(bench)
    assert Counter(row.job_class for row in claim(8, turns))[BATCH] <= 2


def test_without_others_a_later_class_has_everything(bench, claim):
    bench.put(40, job_class=BATCH)
    assert len(claim(32, Turns())) == 32


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_a_result_that_waited_for_a_lock_until_the_deadline_had_passed_is_refused(bench):
    soon = datetime.now(UTC) + timedelta(seconds=3)
    (job_id,) = bench.put(expires_at=soon)
    lease = bench.open()
    claims = bench.claim(lease)
    assert len(claims) == 1
    done = []
    writer = threading.Thread(target=lambda: done.append(bench.complete(lease, claims)))
    with bench.ctx.db.transaction() as tx:
        queue.lock(tx, [job_id])
        writer.start()
        while datetime.now(UTC) < soon:
            time.sleep(0.05)
    writer.join(timeout=100)
    assert done[0].fenced == {job_id}
    assert upkeep.expire(bench.ctx) == 1
    assert bench.job(job_id).state is JobState.EXPIRED
    assert bench.rows("results") == []


# -- pauses ------------------------------------------------------------------------------------------------------------


def test_a_pause_holds_from_the_next_claim_on_and_what_is_held_ends(bench, claim):
    other = add_tenant(bench, "other")
    bench.put(4)
    bench.put(4, tenant_id=other.tenant_id)
    bench.put(4, model="another")
    turns = Turns()
    held = claim(2, turns)
    scheduling.pause(bench.ctx, bench.caller, model="reader")
    assert claim(8, turns) == []
    assert len(claim(8, turns, model="another")) == 4
    assert bench.complete(bench.leases[0], held).completed == {row.id for row in held}
    assert scheduling.resume(bench.ctx, bench.caller, model="reader") == []
    assert len(claim(8, turns)) == 6


def test_a_tenant_can_be_paused_and_others_go_on(bench, claim):
    other = add_tenant(bench, "other")
    bench.put(3)
    bench.put(3, tenant_id=other.tenant_id)
    bench.put(3, tenant_id=other.tenant_id, model="another")
    scheduling.pause(bench.ctx, bench.caller, tenant="other", model="reader")
    turns = Turns()
    found = claim(16, turns, model=None)
    assert Counter((row.tenant_id, row.model) for row in found) == {
        (DEFAULT_TENANT, "reader"): 3, (other.tenant_id, "another"): 3
    }  # fmt: skip
    scheduling.pause(bench.ctx, bench.caller, tenant="other")
    scheduling.resume(bench.ctx, bench.caller, tenant="other", model="reader")
    assert claim(16, turns, model=None) == []
    scheduling.resume(bench.ctx, bench.caller, tenant="other")
    assert len(claim(16, turns, model=None)) == 3


def test_everything_can_be_paused_of_every_kind(bench, claim):
    bench.put()
    bench.put(kind=PREPARE)
    (pause,) = scheduling.pause(bench.ctx, bench.caller)
    assert (pause.tenant, pause.model) == (None, None)
    kinds = (INFER, PREPARE, RENDER)
    assert claim(8, Turns(), kinds=kinds, model=None) == []
    assert len(scheduling.pause(bench.ctx, bench.caller)) == 1, "twice is as once"
    scheduling.resume(bench.ctx, bench.caller)
    assert len(claim(8, Turns(), kinds=kinds, model=None)) == 2
    events = [(row.event, row.actor) for row in bench.rows("events", subject="queue")]
    assert sorted(events) == [("paused", bench.caller.actor), ("resumed", bench.caller.actor)]


def test_many_paused_tenants_do_not_hide_the_others(bench, claim):
    for number in range(40):
        tenant = add_tenant(bench, f"paused {number}")
        bench.put(tenant_id=tenant.tenant_id)
        scheduling.pause(bench.ctx, bench.caller, tenant=f"paused {number}")
    (free,) = bench.put(tenant_id=new_id())
    turns = Turns()
    turns._lanes_to_all = False
    assert [row.id for row in claim(1, turns)] == [free]


def test_other_tenants_reach_only_themselves(bench):
    one, other = add_tenant(bench, "one"), add_tenant(bench, "other")
    scheduling.pause(bench.ctx, one)
    assert [(row.tenant_id, row.model) for row in bench.rows("pauses")] == [(one.tenant_id, None)]
    for verb in (scheduling.pause, scheduling.resume):
        with pytest.raises(NotFound):
            verb(bench.ctx, one, tenant="other")
    assert scheduling.read_queue(bench.ctx, other).pauses == []
    assert [pause.tenant for pause in scheduling.read_queue(bench.ctx, bench.caller).pauses] == ["one"]
    with pytest.raises(Forbidden):
        scheduling.pause(bench.ctx, Caller(one.tenant_id, new_id(), "", frozenset({"read", "submit"})))
    mine, theirs = bench.put(tenant_id=one.tenant_id)[0], bench.put(tenant_id=other.tenant_id)[0]
    assert scheduling.reclass(bench.ctx, one, BATCH) == 1
    assert [bench.row("queue", id=i)._mapping["class"] for i in (mine, theirs)] == ["batch", "normal"]


# -- change of class ---------------------------------------------------------------------------------------------------


def test_a_change_of_class_counts_from_the_next_claim_on(bench, claim, monkeypatch):
    monkeypatch.setattr(reclassing, "PIECE", 4)
    slow = bench.put(10, job_class=BATCH)
    quick = bench.put(3)
    (held,) = claim(1, Turns(aged_share=0))
    assert held.id == quick[0]
    assert scheduling.reclass(bench.ctx, bench.caller, INTERACTIVE, model="reader", from_class=BATCH) == 10
    assert [row.id for row in claim(11, Turns())] == [*slow, quick[1]]
    assert {row._mapping["class"] for row in bench.rows("jobs") if row.id in slow} == {"interactive"}
    assert bench.job(held.id).job_class is NORMAL
    (event,) = bench.rows("events", event="reclassed")
    assert event.data["jobs"] == 10
    assert event.actor == bench.caller.actor


def test_jobs_can_be_named_and_what_has_ended_keeps_its_class(bench):
    one, two, ended = bench.put(3)
    lease = bench.open()
    bench.complete(lease, [row for row in bench.claim(lease) if row.id == ended])
    assert scheduling.reclass(bench.ctx, bench.caller, BATCH, ids=[one, ended]) == 1
    assert [bench.job(i).job_class for i in (one, two, ended)] == [BATCH, NORMAL, NORMAL]
    assert [row.event for row in bench.rows("events", subject_id=one)] == ["reclassed"]
    assert bench.row("queue", id=one).state == "running", "held rows are held on"


def test_pages_of_a_document_take_its_new_class(bench):
    document = new_id()
    bench.run(
        "INSERT INTO documents (id, tenant_id, model, media_type, blob, prompt) "
        "VALUES (:id, :tenant, 'reader', 'application/pdf', '', '{}')", id=document, tenant=DEFAULT_TENANT
    )  # fmt: skip
    with bench.ctx.db.transaction() as tx:
        queue.enqueue(tx, [queue.Entry(document, RENDER, DEFAULT_TENANT, "reader", NORMAL)])
    assert scheduling.reclass(bench.ctx, bench.caller, BATCH, model="reader") == 1
    assert bench.row("documents", id=document)._mapping["class"] == "batch"
