"""The same request again answers what the first one made; the same key with another request is refused."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from batchinfer.domain.documents import Document
from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.prompts import JobRequest, Upload
from batchinfer.errors import KeyReused, NotFound
from batchinfer.services import jobs, upkeep
from batchinfer.services.context import Idempotency

CLIENTS = 50


def ask(*uploads, model="reader"):
    content = [{"type": "text", "text": "Read."}]
    return JobRequest(
        model, JobClass.NORMAL, ({"role": "user", "content": content},), uploads, {}, 9, (), None, {}, None
    )


def key(name="k1", body=b"body", route="/v1/jobs", method="POST"):
    return Idempotency(method, route, name, hashlib.sha256(body).digest())


def test_a_replay_answers_the_first_job_as_it_stands(bench):
    first, replayed = jobs.submit(bench.ctx, bench.caller, ask(), key())
    assert not replayed
    jobs.cancel_job(bench.ctx, bench.caller, first.id)
    again, replayed = jobs.submit(bench.ctx, bench.caller, ask(), key())
    assert replayed
    assert again == bench.job(first.id)
    assert len(bench.rows("jobs")) == 1
    assert bench.count("submitted") == 1


def test_another_body_is_refused(bench):
    jobs.submit(bench.ctx, bench.caller, ask(), key())
    with pytest.raises(KeyReused) as refused:
        jobs.submit(bench.ctx, bench.caller, ask(), key(body=b"other"))
    assert refused.value.param == "Idempotency-Key"
    assert len(bench.rows("jobs")) == 1


def test_a_key_counts_for_one_tenant_method_and_route(bench):
    stranger = replace(bench.caller, tenant_id=new_id())
    rotated = replace(bench.caller, key_id=new_id())
    first, _ = jobs.submit(bench.ctx, bench.caller, ask(), key())
    others = [
        jobs.submit(bench.ctx, stranger, ask(), key()),
        jobs.submit(bench.ctx, bench.caller, ask(), key(route="/v1/other")),
        jobs.submit(bench.ctx, bench.caller, ask(), key(method="PUT")),
        jobs.submit(bench.ctx, bench.caller, ask(), key("k2")),
    ]
    assert [replayed for _, replayed in others] == [False] * 4
    assert len({first.id, *(job.id for job, _ in others)}) == 5
    assert jobs.submit(bench.ctx, rotated, ask(), key()) == (first, True), "a new API key still gets its replay"


def test_a_refused_request_uses_up_no_key(bench):
    with pytest.raises(NotFound):
        jobs.submit(bench.ctx, bench.caller, ask(model="nobody"), key())
    assert bench.rows("idempotency_keys") == []
    assert jobs.submit(bench.ctx, bench.caller, ask(), key())[1] is False


def test_a_document_is_replayed_too(bench):
    pdf = Upload(data=b"%PDF-1.7", filename="a.pdf", param="file")
    first, _ = jobs.submit(bench.ctx, bench.caller, ask(pdf), key())
    again, replayed = jobs.submit(bench.ctx, bench.caller, ask(pdf), key())
    assert isinstance(again, Document)
    assert (again, replayed) == (first, True)
    assert len(bench.rows("documents")) == 1


def test_a_forgotten_key_makes_a_new_job(bench):
    first, _ = jobs.submit(bench.ctx, bench.caller, ask(), key())
    jobs.submit(bench.ctx, bench.caller, ask(), key("lives"))
    bench.run("UPDATE idempotency_keys SET expires_at = now() - interval '1 second' WHERE key = 'k1'")
    second, replayed = jobs.submit(bench.ctx, bench.caller, ask(), key(body=b"other"))
    assert not replayed
    assert second.id != first.id
    bench.run("UPDATE idempotency_keys SET expires_at = now() - interval '1 second' WHERE key = 'k1'")
    assert upkeep.tick(bench.ctx).keys_forgotten == 1
    assert [row.key for row in bench.rows("idempotency_keys")] == ["lives"]


def test_fifty_clients_at_once_make_one_job(bench):
    start = threading.Barrier(CLIENTS)

    def submit(number):
        start.wait()
        return jobs.submit(bench.ctx, bench.caller, ask(), key())

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(submit, range(CLIENTS)))
    assert len({job.id for job, _ in answers}) == 1
    assert [replayed for _, replayed in answers].count(False) == 1
    assert len(bench.rows("jobs")) == len(bench.rows("queue")) == bench.count("submitted") == 1


def test_of_clients_with_two_bodies_one_body_wins(bench):
    start = threading.Barrier(16)

    def submit(number):
        start.wait()
        try:
            return jobs.submit(bench.ctx, bench.caller, ask(), key(body=b"%d" % (number % 2)))[0].id
        except KeyReused:
            return None

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(submit, range(16)))
    assert len(bench.rows("jobs")) == 1
    assert answers.count(None) == 8
    assert set(answers) == {None, bench.rows("jobs")[0].id}
