"""Quotas: exact under many submitters, counted with what they count, refused with numbers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.prompts import JobRequest, Upload
from batchinfer.errors import BadRequest, Busy, Forbidden, TooLarge
from batchinfer.services import documents, jobs, quotas, upkeep, work
from batchinfer.services.context import SCOPES, Caller
from batchinfer.store import backlog
from batchinfer.store.minutes import Tally
from batchinfer.store.session import Database


def ask(**more):
    values = {
        "model": "reader", "job_class": JobClass.NORMAL,
        "messages": ({"role": "user", "content": [{"type": "text", "text": "Read."}]},), "uploads": (),
        "sampling": {}, "max_tokens": 9, "stop": (), "response_format": None, "metadata": {}, "expires_in_s": None,
    }  # fmt: skip
    return JobRequest(**(values | more))


def limited(bench, **limits):
    """The bench's context with other limits."""
    return replace(bench.ctx, settings=bench.ctx.settings.model_copy(update=limits))


def submit(ctx, caller):
    return jobs.submit(ctx, caller, ask())[0].id


def insert(ctx, tenant_id, number):
    """What a submission of many does: admitted and counted in one transaction."""
    with ctx.db.transaction() as tx:
        quotas.admit(ctx, tx, tenant_id, number)
        tally = Tally()
        tally.count(tenant_id, "reader", submitted=number)
        tally.add(tx)


def counted(bench, tenant_id=DEFAULT_TENANT):
    return sum(row.jobs for row in bench.rows("backlog", tenant_id=tenant_id))


def storm(ctx, tries, threads=50):
    """Many at once, each on its own connection; of `tries` each a (tenant, number). Answers how many jobs came in."""
    ctx = replace(ctx, db=Database(ctx.settings.require_database_url(), pool_size=threads))
    with ExitStack() as stack:
        stack.callback(ctx.db.dispose)
        return storm_on(ctx, tries, threads)


def storm_on(ctx, tries, threads):
    start = threading.Barrier(threads)
    pieces = [tries[n::threads] for n in range(threads)]

    def run(mine):
        start.wait()
        passed = 0
        for tenant_id, number in mine:
            try:
                insert(ctx, tenant_id, number)
                passed += number
            except Busy:
                pass
        return passed

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(run, pieces))


def test_fifty_submitters_at_once_fill_a_quota_and_never_pass_it(bench):
    ctx = limited(bench, quota_jobs=137)
    assert storm(ctx, [(DEFAULT_TENANT, 1)] * 300) == 137
    assert counted(bench) == counted(bench, backlog.EVERYBODY) == 137


@pytest.mark.parametrize("limit", [1000, 5000])
def test_from_far_off_into_the_limit_with_requests_of_many_sizes(bench, limit):
    """Most of the way nobody takes turns; the last tenth does."""
    ctx = limited(bench, quota_jobs=limit)
    sizes = [1, 5, 1, limit // 40]
    passed = storm(ctx, [(DEFAULT_TENANT, sizes[n % 4]) for n in range(320)])
    assert limit - limit // 40 < passed <= limit
    assert counted(bench) == passed


def test_the_backlog_of_all_tenants_is_as_exact(bench):
    ctx = limited(bench, backlog_jobs=90, quota_jobs=60)
    tenants = [new_id() for _ in range(3)]
    assert storm(ctx, [(tenants[n % 3], 1) for n in range(240)]) == 90
    assert all(counted(bench, tenant) <= 60 for tenant in tenants)


def test_a_refusal_says_the_numbers_and_when_to_come_back(bench):
    ctx = limited(bench, quota_jobs=2)
    first = submit(ctx, bench.caller)
    submit(ctx, bench.caller)
    with pytest.raises(Busy) as refused:
        submit(ctx, bench.caller)
    error = refused.value
    assert (error.code, error.retry_after_s, error.status) == ("quota_exceeded", 60, 429)
    assert "2 jobs" in error.message
    assert "at most 2" in error.message
    bench.run(
        "INSERT INTO minutes (tenant_id, model, minute, shard, succeeded) "
        "VALUES (:t, 'reader', date_trunc('minute', now()), 99, 30)", t=DEFAULT_TENANT
    )  # fmt: skip
    with pytest.raises(Busy) as refused:
        submit(ctx, bench.caller)
    assert refused.value.retry_after_s == 10, "30 in 300 s are one in 10 s"
    bench.run("UPDATE minutes SET succeeded = 1 WHERE shard = 99")
    with pytest.raises(Busy) as refused:
        submit(ctx, bench.caller)
    assert refused.value.retry_after_s == 120
    assert len(bench.rows("jobs")) == 2, "a refused request leaves nothing"
    jobs.cancel_job(ctx, bench.caller, first)
    submit(ctx, bench.caller)


def test_more_than_may_ever_wait_is_refused_for_good(bench):
    with pytest.raises(TooLarge) as refused:
        insert(limited(bench, quota_jobs=10), DEFAULT_TENANT, 11)
    assert refused.value.code == "larger_than_quota"


def test_a_full_backlog_is_everybodys(bench):
    ctx = limited(bench, backlog_jobs=1)
    submit(ctx, bench.caller)
    with pytest.raises(Busy) as refused:
        insert(ctx, new_id(), 1)
    assert refused.value.code == "backlog_full"


def test_every_end_makes_room_and_every_return_does_not(bench):
    ctx = bench.ctx
    ids = [submit(ctx, bench.caller) for _ in range(6)]
    lease = bench.open()
    held = {claim.id: claim for claim in bench.claim(lease)}
    bench.complete(lease, [held[ids[0]]])
    work.fail(ctx, lease, [bench.ending(held[ids[1]])])
    jobs.cancel_job(ctx, bench.caller, ids[2])
    bench.run("UPDATE queue SET expires_at = now() WHERE id = :id", id=ids[3])
    upkeep.expire(ctx)
    work.release(ctx, lease, [held[ids[4]]])
    assert counted(bench) == 2
    bench.run("UPDATE queue SET crashes = 99, suspected = 99 WHERE id = :id", id=ids[5])
    work.end_lease(ctx, lease, "killed", clean=False)
    assert counted(bench) == len(bench.rows("queue"))
    assert quotas.correct_counts(ctx) == 0


def test_a_released_job_is_counted_again(bench):
    job_id = submit(bench.ctx, bench.caller)
    for _ in range(bench.ctx.settings.max_crashes):
        bench.make_due()
        lease = bench.open()
        assert bench.claim(lease)
        work.end_lease(bench.ctx, lease, "killed", clean=False)
    assert counted(bench) == len(bench.rows("queue")) == 0
    jobs.release_job(bench.ctx, bench.caller, job_id)
    assert counted(bench) == 1
    assert quotas.correct_counts(bench.ctx) == 0


def test_counts_that_went_wrong_are_put_right_beside_those_who_count(bench, caplog):
    tenant = new_id()
    bench.put(7, tenant_id=tenant)  # rows that nobody counted
    bench.put(3, kind="prepare")
    assert quotas.correct_counts(bench.ctx) == 3
    assert (counted(bench, tenant), counted(bench), counted(bench, backlog.EVERYBODY)) == (7, 3, 10)
    bench.run("UPDATE backlog SET jobs = jobs + 1000 WHERE tenant_id = :t", t=tenant)
    stop = threading.Event()

    def correct():
        while not stop.is_set():
            quotas.correct_counts(bench.ctx)

    corrector = threading.Thread(target=correct)
    corrector.start()
    try:
        for _ in range(30):
            submit(bench.ctx, bench.caller)
    finally:
        stop.set()
        corrector.join(timeout=30)
    assert (counted(bench, tenant), counted(bench), counted(bench, backlog.EVERYBODY)) == (7, 33, 40)
    assert quotas.correct_counts(bench.ctx) == 0


def test_a_tenant_has_its_own_limit_or_the_settings(bench):
    ctx = limited(bench, quota_jobs=5)
    assert quotas.set_quota(ctx, bench.caller, max_jobs=1).max_jobs == 1
    submit(ctx, bench.caller)
    with pytest.raises(Busy):
        submit(ctx, bench.caller)
    assert quotas.set_quota(ctx, bench.caller).max_jobs == 5
    submit(ctx, bench.caller)
    quota = quotas.read_quota(ctx, bench.caller)
    assert (quota.tenant, quota.jobs, quota.max_jobs, quota.weight, quota.backlog) == ("default", 2, 5, 1, 2)
    assert [row.data for row in bench.rows("events", event="limited")] == [
        {"max_jobs": 1, "weight": 1}, {"max_jobs": None, "weight": 1}
    ]  # fmt: skip


def test_only_the_operator_sets_limits(bench):
    with pytest.raises(Forbidden):
        quotas.set_quota(bench.ctx, Caller(new_id(), new_id(), "", frozenset(SCOPES)), max_jobs=9)
    with pytest.raises(BadRequest):
        quotas.set_quota(bench.ctx, bench.caller, weight=0)


def test_a_document_needs_a_place_too(bench):
    ctx = limited(bench, quota_jobs=1)
    submit(ctx, bench.caller)
    upload = Upload(data=b"%PDF-1.7", filename="a.pdf", param="file")
    with pytest.raises(Busy):
        documents.submit_document(ctx, bench.caller, ask(uploads=(upload,)), "application/pdf")
