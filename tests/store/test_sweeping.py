"""Days that are dropped, files that go with them, and what is never touched."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.jobs import JobState
from batchinfer.domain.keys import parse_tenant
from batchinfer.errors import NotFound
from batchinfer.services import checking, sweeping, tenants, upkeep, work
from batchinfer.services import jobs as job_services
from batchinfer.store import files, partitions, retention
from batchinfer.store.files import Blob
from batchinfer.store.horizons import find_horizons

KEEP_DAYS = 3


@pytest.fixture
def old(bench):
    """Make jobs as they were made some days ago, in a table of their own."""

    def make(days, number=1, *, ended=True):
        when = datetime.now(UTC) - timedelta(days=days)
        with bench.ctx.db.transaction() as tx:
            if f"jobs_{when:%Y%m%d}" not in partitions.list_partitions(tx):
                for table in partitions.PARTITIONED:
                    partitions._make_day(tx, table, when.date())
        stamp = int(when.timestamp() * 1000) << 80
        ids = [UUID(int=stamp | 0x7 << 76 | 0x8 << 60 | random.getrandbits(60)) for _ in range(number)]
        for job_id in ids:
            bench.run(
                "INSERT INTO jobs (id, tenant_id, model, prompt, final_state, created_at) VALUES"
                " (:id, :t, 'reader', '{\"images\": [], \"messages\": []}', :state,"
                " now() - make_interval(days => :days))",
                id=job_id, t=DEFAULT_TENANT, state="succeeded" if ended else None, days=days,
            )  # fmt: skip
            if not ended:
                bench.run(
                    "INSERT INTO queue (id, kind, subject_id, tenant_id, model)"
                    " VALUES (:id, 'infer', :id, :t, 'reader')",
                    id=job_id, t=DEFAULT_TENANT,
                )  # fmt: skip
        return ids

    return make


@pytest.fixture
def ctx(bench):
    settings = bench.ctx.settings.model_copy(update={"keep_days": KEEP_DAYS})
    return replace(bench.ctx, settings=settings)


def days_of(bench):
    with bench.ctx.db.transaction() as tx:
        return {name[5:] for name in partitions.list_partitions(tx) if name.startswith("jobs_2")}


def store(ctx, data, *, age_s=0.0):
    sha256 = ctx.blobs.put(DEFAULT_TENANT, data)
    if age_s:
        os.utime(ctx.blobs.path(DEFAULT_TENANT, sha256), (time.time() - age_s,) * 2)
    return sha256


def test_a_day_whose_time_is_over_is_dropped_and_younger_ones_stay(bench, ctx, old):
    (gone,), (kept,) = old(KEEP_DAYS + 1), old(KEEP_DAYS)
    before = days_of(bench)
    assert sweeping.drop_expired(ctx) == 1
    assert before - days_of(bench) == {f"{datetime.now(UTC) - timedelta(days=KEEP_DAYS + 1):%Y%m%d}"}
    assert bench.job(kept).state is JobState.SUCCEEDED
    with pytest.raises(NotFound):
        bench.job(gone)
    assert sweeping.drop_expired(ctx) == 0


def test_a_day_in_which_something_lives_is_kept_whole(bench, ctx, old):
    (ended,) = old(9)
    (alive,) = old(9, ended=False)
    assert sweeping.drop_expired(ctx) == 0
    assert (bench.job(ended).state, bench.job(alive).state) == (JobState.SUCCEEDED, JobState.QUEUED)
    lease = bench.open()
    bench.complete(lease, bench.claim(lease))
    assert sweeping.drop_expired(ctx) == 1
    assert bench.rows("results") == []


def test_nothing_is_dropped_where_all_is_kept(bench, ctx, old):
    old(900)
    for_ever = ctx.settings.model_copy(update={"keep_days": 0})
    assert sweeping.drop_expired(replace(ctx, settings=for_ever)) == 0


def test_a_job_that_is_released_while_its_day_is_dropped_is_either_there_or_was_never_released(bench, ctx, old):
    (job_id,) = old(9)
    bench.run("UPDATE jobs SET final_state = 'quarantined' WHERE id = :id", id=job_id)
    with bench.ctx.db.transaction() as tx:
        (day,) = retention.list_expired_days(tx, find_horizons(tx, KEEP_DAYS))
    job_services.release_job(bench.ctx, bench.caller, job_id)
    with bench.ctx.db.transaction() as tx:
        assert not retention.drop_day(tx, day, find_horizons(tx, KEEP_DAYS)), "looked at again under the lock"
    assert bench.job(job_id).state is JobState.QUEUED


def test_a_day_in_use_is_left_for_another_time(bench, ctx, old):
    old(9)
    with bench.ctx.db.transaction() as tx:
        tx.execute(text("LOCK TABLE jobs IN ACCESS SHARE MODE"))
        assert sweeping.drop_expired(ctx) == 0
    assert sweeping.drop_expired(ctx) == 1


def test_what_lies_beside_goes_too(bench, ctx, old):
    old(9)
    before = partitions.first_id((datetime.now(UTC) - timedelta(days=KEEP_DAYS)).date())
    old_id = UUID(int=before.int - (1 << 90))
    bench.run(
        "INSERT INTO documents (id, tenant_id, model, media_type, blob, prompt) VALUES"
        " (:id, :t, 'reader', 'application/pdf', 'x', '{}'), (:young, :t, 'reader', 'application/pdf', 'x', '{}')",
        id=old_id, young=new_id(), t=DEFAULT_TENANT,
    )  # fmt: skip
    bench.run(
        "INSERT INTO events (id, tenant_id, subject, subject_id, event) VALUES (:id, :t, 'job', :id, 'x')",
        id=old_id, t=DEFAULT_TENANT,
    )  # fmt: skip
    bench.run(
        "INSERT INTO outbox (id, tenant_id, kind, subject, subject_id, final_state) VALUES"
        " (:id, :t, 'log', 'job', :id, 'succeeded')",
        id=old_id, t=DEFAULT_TENANT,
    )  # fmt: skip
    sweeping.drop_expired(ctx)
    assert len(bench.rows("documents")) == 1
    assert (bench.rows("events"), bench.rows("outbox")) == ([], [])


def test_a_blob_goes_after_the_last_day_that_could_refer_to_it(bench, ctx, old):
    sha256 = store(ctx, b"page", age_s=20 * 86400)
    with bench.ctx.db.transaction() as tx:
        files.record_blobs(tx, DEFAULT_TENANT, [Blob(sha256, 4, "image/png")])
    bench.run("UPDATE blobs SET used_at = now() - interval '9 days'")
    old(9, ended=False)
    sweeping.sweep_blobs(ctx)
    assert ctx.blobs.exists(DEFAULT_TENANT, sha256), "a job of that day is there"
    lease = bench.open()
    bench.complete(lease, bench.claim(lease))
    sweeping.drop_expired(ctx)
    assert sweeping.sweep_blobs(ctx) == 1
    assert not ctx.blobs.exists(DEFAULT_TENANT, sha256)
    assert bench.rows("blobs") == []


def test_one_that_was_used_again_stays(bench, ctx):
    sha256 = store(ctx, b"page", age_s=20 * 86400)
    for _ in range(2):
        with bench.ctx.db.transaction() as tx:
            files.record_blobs(tx, DEFAULT_TENANT, [Blob(sha256, 4, "image/png")] * 2)
        bench.run("UPDATE blobs SET used_at = now() - interval '90 days' WHERE used_at < now() - interval '1 minute'")
    assert len(bench.rows("blobs")) == 1
    sweeping.sweep_blobs(ctx)
    assert ctx.blobs.exists(DEFAULT_TENANT, sha256)
    bench.run("UPDATE blobs SET used_at = now() - interval '90 days'")
    assert ctx.blobs.put(DEFAULT_TENANT, b"page") == sha256
    sweeping.sweep_blobs(ctx)
    assert ctx.blobs.exists(DEFAULT_TENANT, sha256), "stored again a moment ago: a request is on its way"


def test_a_file_that_never_got_a_row_goes_after_the_grace_time(bench, ctx):
    grace_s = ctx.settings.blob_grace_hours * 3600
    left, fresh, known = (
        store(ctx, b"left", age_s=grace_s + 9),
        store(ctx, b"fresh"),
        store(ctx, b"known", age_s=grace_s + 9),
    )
    with bench.ctx.db.transaction() as tx:
        files.record_blobs(tx, DEFAULT_TENANT, [Blob(known, 5, "image/png")])
    assert sum(sweeping.sweep_shelf(ctx, shelf) for shelf in range(256)) == 1
    assert [ctx.blobs.exists(DEFAULT_TENANT, sha256) for sha256 in (left, fresh, known)] == [False, True, True]


def test_what_a_lost_sweeper_moved_aside_comes_back(ctx):
    sha256 = store(ctx, b"page")
    path = ctx.blobs.path(DEFAULT_TENANT, sha256)
    path.rename(path.with_name(f".old-1-{sha256}"))
    half = path.with_name(".new-half")
    half.write_bytes(b"pa")
    os.utime(half, (1, 1))
    assert ctx.blobs.tidy_shelf(int(sha256[:2], 16), unused_s=60) == 2
    assert [file.name for file in path.parent.iterdir()] == [sha256]


def test_bytes_that_come_while_they_are_removed_are_never_lost(bench, ctx):
    """Many store the same few orphans and refer to them, while others remove orphans without a pause."""
    pages = [b"page %d" % number for number in range(4)]
    stop, lost, removed = threading.Event(), [], []

    def sweep():
        while not stop.is_set():
            with bench.ctx.db.transaction() as tx:
                tx.execute(text("UPDATE blobs SET used_at = now() - interval '90 days'"))
            removed.append(sweeping._remove_group(ctx, *[datetime.now(UTC) - timedelta(days=1)] * 2))

    def submit(data):
        generator = random.Random(data)
        for _ in range(40):
            sha256 = ctx.blobs.put(DEFAULT_TENANT, data)
            with bench.ctx.db.transaction() as tx:
                files.record_blobs(tx, DEFAULT_TENANT, [Blob(sha256, len(data), "image/png")])
            # From the commit on both must be there, until the grace time is over.
            if not _is_there(ctx, sha256) or not _has_row(bench, sha256):
                lost.append(sha256)
            if generator.random() < 0.7:
                with suppress(FileNotFoundError):  # just moved aside, to be moved back
                    os.utime(ctx.blobs.path(DEFAULT_TENANT, sha256), (1, 1))

    with ThreadPoolExecutor(6) as pool:
        sweeps = [pool.submit(sweep) for _ in range(2)]
        try:
            list(pool.map(submit, pages))
        finally:
            stop.set()
        for done in sweeps:
            done.result()
    assert sum(removed) > 20, "there was something to remove"
    assert lost == []


def _is_there(ctx, sha256):
    """A moment is allowed: it may just be moved back."""
    for _ in range(50):
        if ctx.blobs.exists(DEFAULT_TENANT, sha256):
            return True
        time.sleep(0.002)
    return False


def _has_row(bench, sha256):
    return bench.row("blobs", sha256=sha256) is not None


def test_made_pictures_have_rows_of_their_own(bench, ctx):
    (job_id,) = bench.put(kind="prepare")
    cpu = bench.open("cpu")
    (claim,) = bench.claim(cpu, kinds=["prepare"])
    sha256 = store(ctx, b"normal")
    normal = {"sha256": sha256, "media_type": "image/png", "width": 1, "height": 1}
    assert work.mark_prepared(bench.ctx, cpu, claim, [{"sha256": "0" * 64, "normal": normal}])
    assert bench.row("blobs", sha256=sha256).size_bytes == 6
    assert bench.job(job_id).state is JobState.QUEUED


def test_the_hourly_tick_does_all_of_it(bench, ctx, old):
    old(KEEP_DAYS + 1)
    upkeep.tick(ctx)
    bench.run("UPDATE ticks SET ticked_at = now() - interval '2 hours'")
    old(KEEP_DAYS + 2)
    store(ctx, b"x", age_s=9 * 86400)
    done = upkeep.tick(ctx)
    assert (done.days_dropped, done.mismatches) == (1, 0)


@pytest.fixture
def another(bench, ctx):
    """A second tenant's jobs of some days ago, beside those of the first one."""
    (tenant, _) = tenants.create_tenant(ctx, bench.caller, parse_tenant({"name": "another"}))

    def take(ids):
        for table, column in (("jobs", "id"), ("results", "job_id"), ("job_blobs", "job_id")):
            bench.run(f"UPDATE {table} SET tenant_id = :t WHERE {column} = ANY (:ids)", t=tenant.id, ids=ids)  # noqa: S608
        return ids

    return take


def keep(ctx, bench, name, days):
    tenants.set_retention(ctx, bench.caller, name, days)


def ids_of(bench):
    return {row.id for row in bench.rows("jobs")}


def test_a_tenant_that_keeps_less_loses_its_rows_and_their_files_and_nobody_else_does(bench, ctx, old, another):
    mine, theirs = old(2, 3), another(old(2, 3))
    sha256 = store(ctx, b"theirs", age_s=20 * 86400)
    with bench.ctx.db.transaction() as tx:
        files.record_blobs(tx, DEFAULT_TENANT, [Blob(sha256, 6, "image/png")])
    bench.run(
        "INSERT INTO job_blobs (job_id, sha256, tenant_id) VALUES (:id, :b, :t)", id=mine[0], b=sha256, t=DEFAULT_TENANT
    )
    usage = bench.rows("usage")
    keep(ctx, bench, "default", 1)
    assert sweeping.drop_expired(ctx) == 0, "the day stays: the other tenant keeps it"
    assert ids_of(bench) == {*theirs}
    assert bench.rows("job_blobs") == []
    assert sweeping.erase_blobs(ctx) == 1
    assert not ctx.blobs.exists(DEFAULT_TENANT, sha256)
    assert bench.rows("usage") == usage
    assert checking.check_counters(ctx) == []


def test_a_tenant_that_keeps_more_keeps_its_day_and_others_go_out_of_it(bench, ctx, old, another):
    mine, theirs = old(9, 2), another(old(9, 2))
    alone = old(8)
    keep(ctx, bench, "another", 20)
    assert sweeping.drop_expired(ctx) == 1, "the day in which it has nothing"
    assert ids_of(bench) == {*theirs}
    assert not ids_of(bench) & {*mine, *alone}
    keep(ctx, bench, "another", 0)
    assert sweeping.drop_expired(ctx) == 0
    assert ids_of(bench) == {*theirs}
    keep(ctx, bench, "another", None)
    assert sweeping.drop_expired(ctx) == 1
    assert ids_of(bench) == set()


def test_what_lives_or_ended_just_now_is_kept_whatever_its_age(bench, ctx, old):
    (alive,) = old(9, ended=False)
    (late, gone) = old(9, 2)
    bench.run("UPDATE jobs SET finished_at = now() WHERE id = :id", id=late)
    batch = new_id()
    (line,) = old(9)
    bench.run("UPDATE jobs SET batch_id = :b WHERE id = :id", b=batch, id=line)
    bench.run(
        "INSERT INTO batches (id, tenant_id, status, endpoint, completion_window, expires_at)"
        " VALUES (:id, :t, 'in_progress', '/v1/chat/completions', '24h', now())",
        id=batch, t=DEFAULT_TENANT,
    )  # fmt: skip
    keep(ctx, bench, "default", 1)
    sweeping.drop_expired(ctx)
    assert ids_of(bench) == {alive, late, line}
    assert gone not in ids_of(bench)
