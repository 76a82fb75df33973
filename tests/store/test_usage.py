"""Usage: counted with the results, by whoever asked, and equal to them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.jobs import JobClass, Usage
from batchinfer.domain.usage import GROUPS, measure_device_us
from batchinfer.errors import BadRequest
from batchinfer.services import checking, usage, work
from batchinfer.store import jobs, queue
from batchinfer.store.claims import INFER, Outcome
from batchinfer.store.usage import COUNTERS, NOBODY

OTHER_TENANT = new_id()
KEYS = [None, new_id(), new_id()]
SCHEDULES = [None, new_id()]
NUMBER = st.integers(0, 2**40)
USAGE = st.builds(Usage, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER)
TIMINGS = st.dictionaries(st.sampled_from(["waiting", "prefill", "decoding", "rows"]), st.floats(0, 1e4))
JOBS = st.lists(
    st.tuples(
        st.sampled_from([DEFAULT_TENANT, OTHER_TENANT]), st.sampled_from(["reader", "writer"]), st.sampled_from(KEYS),
        st.sampled_from(SCHEDULES), USAGE, TIMINGS, st.sampled_from(["done", "failed", "fenced"]),
    ),
    min_size=1, max_size=8,
)  # fmt: skip


def put(bench, tenant_id, model, key_id, schedule_id):
    job_id = new_id()
    new = jobs.NewJob(job_id, tenant_id, model, JobClass.NORMAL, {"images": []}, key_id=key_id, schedule_id=schedule_id)
    with bench.ctx.db.transaction() as tx:
        jobs.insert_jobs(tx, [new])
        queue.enqueue(tx, [queue.Entry(job_id, INFER, tenant_id, model, JobClass.NORMAL)])
    return job_id


def count_results(bench, tenant_id):
    """What the results of a tenant say, row by row, by model, key and schedule."""
    found = {}
    for result in bench.rows("results", tenant_id=tenant_id):
        job = bench.row("jobs", id=result.job_id)
        details = result.usage["prompt_tokens_details"]
        whose = (result.created_at.astimezone(UTC).date(), job.model, job.key_id, job.schedule_id)
        found.setdefault(whose, Counter()).update(
            jobs=1, prompt_tokens=result.usage["prompt_tokens"], completion_tokens=result.usage["completion_tokens"],
            image_tokens=details["image_tokens"], cached_tokens=details["cached_tokens"],
            images=result.usage["images"], device_us=measure_device_us(result.timings),
        )  # fmt: skip
    return {whose: {name: counts[name] for name in COUNTERS} for whose, counts in found.items()}


def show(rows):
    return {
        (row.day, row.model, row.key_id, row.schedule_id): {name: getattr(row, name) for name in COUNTERS}
        for row in rows
    }


@given(drawn=JOBS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_usage_adds_up_exactly_with_the_results(bench, drawn):
    for table in ("queue", "jobs", "results", "attempts", "minutes", "usage"):
        bench.run(f"DELETE FROM {table}")  # noqa: S608 - constants
    lease, by_id = bench.open(), {}
    for tenant_id, model, key_id, schedule_id, used, timings, end in drawn:
        by_id[put(bench, tenant_id, model, key_id, schedule_id)] = (used, timings, end)
    claims = bench.claim(lease, model=None)
    outcomes, errors = [], []
    for claim in claims:
        used, timings, end = by_id[claim.id]
        if end == "failed":
            errors.append(bench.ending(claim))
        else:
            attempt = claim.attempt + (end == "fenced")
            outcomes.append(Outcome(claim.id, attempt, "x", "stop", used, claim.model, "r1", "fake", timings))
    work.complete_group(bench.ctx, lease, outcomes, errors)
    work.complete_group(bench.ctx, lease, outcomes, errors)  # as after a commit without an answer
    with bench.ctx.db.transaction() as tx:
        read = {
            tenant_id: usage.store.read_usage(
                tx, tenant_id, since=date(2020, 1, 1), until=date(2999, 1, 1), groups=GROUPS, limit=1000
            )
            for tenant_id in (DEFAULT_TENANT, OTHER_TENANT)
        }
    for tenant_id, rows in read.items():
        assert show(rows) == count_results(bench, tenant_id)
    with bench.ctx.db.transaction() as tx:
        assert checking.usage.list_mismatches(tx) == []


def test_groups_filters_and_days(bench):
    today = datetime.now(UTC).date()
    key_id = KEYS[1]
    bench.run("DELETE FROM usage")
    for days, model, key, jobs_ in [
        (0, "a", key_id, 1),
        (1, "a", NOBODY, 2),
        (1, "b", key_id, 4),
        (40, "b", NOBODY, 8),
    ]:
        bench.run(
            "INSERT INTO usage (tenant_id, day, model, key_id, schedule_id, shard, jobs)"
            " VALUES (:t, :d, :m, :k, :n, 3, :j), (:o, :d, :m, :k, :n, 3, 100)",
            t=DEFAULT_TENANT, o=OTHER_TENANT, d=today - timedelta(days=days), m=model, k=key, n=NOBODY, j=jobs_,
        )  # fmt: skip

    def read(**more):
        report = usage.read_usage(bench.ctx, bench.caller, **more)
        return [row.jobs for row in report.rows], report.total.jobs if report.total else 0

    assert read() == ([6, 1], 7)
    assert read(groups=()) == ([7], 7)
    assert read(groups=["model"]) == ([3, 4], 7)
    assert read(groups=["key"], since=today - timedelta(days=40)) == ([5, 10], 15)
    assert read(groups=["day", "model", "key", "schedule"]) == ([2, 4, 1], 7)
    assert read(model="b", since=today - timedelta(days=40)) == ([8, 4], 12)
    assert read(key_id=key_id) == ([4, 1], 5)
    assert read(until=today - timedelta(days=1)) == ([6], 6)
    assert read(since=today + timedelta(days=1)) == ([], 0)
    rows = usage.read_usage(bench.ctx, bench.caller, groups=["key"]).rows
    assert {row.key_id for row in rows} == {None, key_id}
    for wrong in ({"since": today, "until": today - timedelta(days=1)}, {"since": today - timedelta(days=366)}):
        with pytest.raises(BadRequest):
            read(**wrong)


def test_usage_that_differs_from_the_minutes_is_reported(bench):
    bench.put(2)
    lease = bench.open()
    bench.complete(lease, bench.claim(lease))
    assert checking.check_counters(bench.ctx) == []
    bench.run("UPDATE usage SET completion_tokens = completion_tokens + 1")
    found = checking.check_counters(bench.ctx)
    assert [(one.counter, one.counted, one.rows) for one in found] == [("usage_completion_tokens", 11, 10)]


def test_a_share_of_the_device_is_what_the_rows_shared():
    assert measure_device_us({"waiting": 9.0, "prefill": 1.0, "decoding": 3.0, "rows": 4.0}) == 1_000_000
    assert measure_device_us({"decoding": 2.0, "rows": 0.0}) == 2_000_000
    assert measure_device_us({}) == measure_device_us({"decoding": float("nan")}) == 0
