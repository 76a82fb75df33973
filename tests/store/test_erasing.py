"""The bytes of deleted jobs: gone when nobody else refers to them, never before."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobClass
from batchinfer.services import jobs as job_services
from batchinfer.services import repeats, sweeping
from batchinfer.services.files import record_made
from batchinfer.store import jobs
from batchinfer.store.files import Blob, record_blobs


@pytest.fixture
def tenant_id(bench):
    return bench.caller.tenant_id


@pytest.fixture
def put(bench, tenant_id):
    """An ended job with a picture: as it was sent, and as its model takes it."""

    def put(sent=b"sent", normal=b"normal", state="succeeded"):
        names = [bench.ctx.blobs.put(tenant_id, data) for data in (sent, normal)]
        image = {"sha256": names[0], "media_type": "image/png", "normal": {"sha256": names[1]}}
        job = jobs.NewJob(new_id(), tenant_id, "reader", JobClass.NORMAL, {"messages": [], "images": [image]})
        with bench.ctx.db.transaction() as tx:
            record_blobs(tx, tenant_id, [Blob(name, 1, "image/png") for name in names])
            jobs.insert_jobs(tx, [job])
        bench.run("UPDATE jobs SET final_state = :state, finished_at = now() WHERE id = :id", state=state, id=job.id)
        return job.id, names

    return put


@pytest.fixture
def erase(bench):
    """Erase as if the wait were over and no bytes had come lately."""

    def erase(*, late=True):
        bench.run("UPDATE blobs SET erase_at = now() WHERE erase_at IS NOT NULL")
        if late:
            old = time.time() - sweeping.ERASE_WAIT_S - 60
            for file in bench.ctx.blobs.root.rglob("*"):
                if file.is_file():
                    os.utime(file, (old, old))
        return sweeping.erase_blobs(bench.ctx)

    return erase


def there(bench, tenant_id, names):
    return [bench.ctx.blobs.exists(tenant_id, name) and bench.row("blobs", sha256=name) is not None for name in names]


def test_bytes_go_with_the_last_that_refers_to_them(bench, put, erase, tenant_id):
    first, names = put()
    second, _ = put()
    repeats.delete_job(bench.ctx, bench.caller, first)
    assert erase() == 0
    assert there(bench, tenant_id, names) == [True, True]
    repeats.delete_job(bench.ctx, bench.caller, second)
    assert sweeping.erase_blobs(bench.ctx) == 0, "not before the wait is over"
    assert erase() == 2
    assert [bench.ctx.blobs.exists(tenant_id, name) for name in names] == [False, False]
    assert bench.rows("blobs") == []


@pytest.mark.parametrize("holder", ["document", "file", "retry", "other tenant"])
def test_what_something_else_refers_to_stays(bench, put, erase, tenant_id, holder):
    job_id, names = put(state="failed")
    stays = [True, False]
    if holder == "document":
        bench.run(
            "INSERT INTO documents (id, tenant_id, model, media_type, blob, prompt)"
            " VALUES (:id, :t, 'reader', 'application/pdf', :blob, '{}')", id=new_id(), t=tenant_id, blob=names[0],
        )  # fmt: skip
    elif holder == "file":
        bench.run(
            "INSERT INTO files (id, tenant_id, filename, purpose, size_bytes, blob)"
            " VALUES (:id, :t, 'a', 'batch', 1, :blob)", id=new_id(), t=tenant_id, blob=names[0],
        )  # fmt: skip
    elif holder == "retry":
        repeats.retry_job(bench.ctx, bench.caller, job_id)
        stays = [True, True]
    else:
        bench.run("INSERT INTO job_blobs (job_id, sha256, tenant_id) VALUES (:id, :s, :id)", id=new_id(), s=names[0])
        stays = [False, False]
    repeats.delete_job(bench.ctx, bench.caller, job_id)
    assert erase() == stays.count(False)
    assert there(bench, tenant_id, names) == stays


def test_bytes_that_come_again_while_they_are_erased_stay(bench, put, erase, tenant_id):
    """Stored, and not yet referred to: the file was touched a moment ago."""
    job_id, names = put()
    repeats.delete_job(bench.ctx, bench.caller, job_id)
    assert erase(late=False) == 0
    assert there(bench, tenant_id, names) == [True, True]
    assert erase() == 2, "looked at again later"


def test_submitting_and_erasing_race_to_whole_jobs(bench, put, erase, tenant_id):
    for number in range(6):
        job_id, names = put(b"same", b"other")
        repeats.delete_job(bench.ctx, bench.caller, job_id)
        start = threading.Barrier(2)

        def submit(start=start):
            start.wait(60)
            return put(b"same", b"other")

        def remove(start=start, number=number):
            start.wait(60)
            return erase(late=number % 2 == 0)

        with ThreadPoolExecutor(2) as pool:
            made, _ = pool.submit(submit), pool.submit(remove)
        new, _ = made.result()
        assert sweeping.erase_blobs(bench.ctx) == 0
        if number % 2:  # where files were made old behind everybody's back, they may be gone
            assert there(bench, tenant_id, names) == [True, True]
        repeats.delete_job(bench.ctx, bench.caller, new)
        erase()


def test_a_prepared_picture_is_referred_to(bench, tenant_id):
    sent, normal = (bench.ctx.blobs.put(tenant_id, data) for data in (b"sent", b"made"))
    (job_id,) = bench.put(kind="prepare")
    lease = bench.open()
    (claim,) = bench.claim(lease, kinds=["prepare"])
    image = {"sha256": sent, "media_type": "image/png", "normal": {"sha256": normal, "media_type": "image/png"}}
    from batchinfer.services import work

    assert work.mark_prepared(bench.ctx, lease, claim, [image])
    assert {row.sha256 for row in bench.rows("job_blobs", job_id=job_id)} >= {sent, normal}
    with bench.ctx.db.transaction() as tx:
        record_made(bench.ctx, tx, tenant_id, [(normal, "image/png")])
    job_services.cancel_job(bench.ctx, bench.caller, job_id)
    repeats.delete_job(bench.ctx, bench.caller, job_id)
    assert bench.row("blobs", sha256=normal).erase_at is not None
