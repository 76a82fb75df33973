"""Cancels and deadlines that race with work, and one tenant's backlog before another's single job."""

from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from batchinfer.services import keys
from batchinfer.store import keys as key_store
from bench.chaos.calls import Caller, text_body
from bench.chaos.cluster import MODEL
from bench.chaos.ledger import list_states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.chaos.cluster import Cluster


def cancel(cluster: Cluster, ids: list[str]) -> dict[str, int]:
    """Cancel each once, from eight clients; the status of each answer."""
    local = threading.local()

    def ask(job_id: str) -> int:
        if not hasattr(local, "caller"):
            local.caller = Caller(cluster.url, cluster.api_key, timeout_s=60)
        return int(local.caller.ask("POST", f"/v1/jobs/{job_id}/cancel").status)

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(ids, pool.map(ask, ids), strict=True))


def find_states(cluster: Cluster, ids: list[str]) -> dict[str, str]:
    rows = cluster.sql(
        "SELECT id, final_state FROM jobs WHERE id = ANY (%s::uuid[])", [one.removeprefix("job_") for one in ids]
    )
    return {f"job_{job_id.hex}": state for job_id, state in rows}


@pytest.mark.long
def test_cancel_storm(cluster: Cluster, send: Any, settle_clean: Any, full: bool) -> None:
    """Jobs cancelled in every state while they run: each ends cancelled or succeeded, as the answer said."""
    rng = random.Random(3)

    def make(number: int, key: str) -> dict[str, Any]:
        return text_body(f"[[steps:{rng.choice([1, 5, 20000])}]] {key}", key, max_tokens=32_000)

    load = send(cluster, 10_000 if full else 600, make=make, threads=6)
    answers: dict[str, int] = {}
    while not load.done or len(answers) < load.total:
        fresh = [job_id for job_id in load.ids() if job_id not in answers]
        rng.shuffle(fresh)
        answers |= cancel(cluster, fresh)
        cluster.look()
    assert set(answers.values()) <= {200, 409}
    said = {job_id: "cancelled" if status == 200 else "succeeded" for job_id, status in answers.items()}
    settle_clean(cluster, load)
    assert find_states(cluster, list(said)) == said
    assert list_states(cluster, list(said))["cancelled"] > load.total // 4
    # Slots of cancelled jobs are free: they would have run for minutes.
    after = send(cluster, 64)
    settle_clean(cluster, after)


def test_cancel_meets_the_end(cluster: Cluster, send: Any, settle_clean: Any, full: bool) -> None:
    """Cancels sent at the moment at which a job ends: whoever is first is the truth, and the answer says it."""
    rng = random.Random(7)

    def make(number: int, key: str) -> dict[str, Any]:
        # Of any length, so that some end before and some after their cancel, however fast the machine is.
        return text_body(f"[[steps:{rng.choice([1, 4, 16, 64, 400])}]] {key}", key)

    load = send(cluster, 1000 if full else 200, make=make, threads=2)
    answers: dict[str, int] = {}
    while not load.done or len(answers) < load.total:
        fresh = [job_id for job_id in load.ids() if job_id not in answers]
        time.sleep(random.uniform(0.0, 0.08))
        answers |= cancel(cluster, fresh)
        cluster.look()
    settle_clean(cluster, load)
    said = {job_id: "cancelled" if status == 200 else "succeeded" for job_id, status in answers.items()}
    assert find_states(cluster, list(said)) == said
    states = list_states(cluster, list(said))
    assert states["cancelled"] > 0
    assert states["succeeded"] > 0, "no cancel came too late: the race was none"


@contextmanager
def paused(cluster: Cluster) -> Iterator[None]:
    """Workers begin nothing; what runs goes on."""
    caller = Caller(cluster.url, cluster.api_key)
    assert caller.ask("POST", "/v1/queue/pause", {"model": MODEL}).status == 200
    try:
        yield
    finally:
        assert caller.ask("POST", "/v1/queue/resume", {"model": MODEL}).status == 200


def test_deadlines(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """Deadlines that pass while a job is queued and while it runs: expired, and never a success after them."""

    def make(number: int, key: str) -> dict[str, Any]:
        steps, expires_in = ((100000, 2.0), (20, 1.0), (150, 2.0))[number % 3]
        return text_body(f"[[steps:{steps}]] {key}", key, expires_in=expires_in)

    load = send(cluster, 150, make=make, threads=8)
    cluster.wait(lambda: cluster.count("SELECT count(*) FROM attempts WHERE outcome = 'expired'") > 0, "one runs out")
    cluster.wait(lambda: load.done, "all are submitted")
    with paused(cluster):  # what is queued now is claimed by nobody, on a fast machine either
        waiting = send(cluster, 10, make=lambda _, key: text_body(f"[[steps:1]] {key}", key, expires_in=1.0))
        settle_clean(cluster, load, waiting)
    assert list_states(cluster, waiting.ids()) == {"expired": 10}
    states = list_states(cluster, load.ids())
    assert states["expired"] >= 50
    assert set(states) <= {"expired", "succeeded"}
    assert cluster.count("SELECT count(*) FROM attempts WHERE outcome = 'expired' AND kind = 'infer'") > 0
    queued = """SELECT count(*) FROM jobs j WHERE final_state = 'expired'
        AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.job_id = j.id)"""
    assert cluster.count(queued) > 0, "none expired while it was queued"
    late = "SELECT count(*) FROM jobs WHERE final_state = 'succeeded' AND finished_at > expires_at"
    assert cluster.count(late) == 0


#: Jobs a statement: one of a million would keep every row's foreign keys in memory until its end.
PIECE = 20_000
BACKLOG = """
    WITH made AS (
        INSERT INTO jobs (id, tenant_id, class, model, prompt)
        SELECT CAST(lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0') || '70008'
                || lpad(to_hex(n), 15, '0') AS uuid),
            %(tenant)s, 'normal', %(model)s, CAST(%(prompt)s AS jsonb)
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
        RETURNING id, tenant_id, model)
    INSERT INTO queue (id, kind, subject_id, tenant_id, model, class)
    SELECT id, 'infer', id, tenant_id, model, 'normal' FROM made"""


@pytest.mark.long
def test_a_backlog_of_another_tenant(make_cluster: Any, full: bool) -> None:
    """One tenant has a million jobs waiting; another's single job is done within a claim round."""
    cluster = make_cluster()
    cluster.start(models=1, cpus=0, slots=8, options='{"steps_per_s": 50}')
    other = uuid4()
    with cluster.ctx.db.transaction() as tx:
        key_store.ensure_tenant(tx, other, "other")
    first = Caller(cluster.url, cluster.api_key).submit("first", text_body("[[steps:5]] first", "first"))
    assert first.status == 202
    prompt = json.dumps(cluster.sql("SELECT prompt FROM jobs")[0][0])
    number = 1_000_000 if full else 100_000
    address = cluster.settings.database_url.get_secret_value()
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for first in range(1, number, PIECE):
            values = {"tenant": other, "model": MODEL, "prompt": prompt, "first": first, "last": first + PIECE - 1}
            connection.execute(BACKLOG.encode(), values)
            cluster.look()
        connection.execute("ANALYZE jobs, queue")
    running = "SELECT count(*) FROM queue WHERE state = 'running' AND tenant_id = %s"
    cluster.wait(lambda: cluster.count(running, other) >= 8, "the backlog is at work")
    caller = Caller(cluster.url, keys.create_key(cluster.ctx, "one")[1], timeout_s=60)
    job_id = caller.submit("one", text_body("[[steps:5]] one", "one")).body["id"]
    job = cluster.wait(
        lambda: found if (found := caller.ask("GET", f"/v1/jobs/{job_id}").body)["status"] == "succeeded" else None,
        "the single job is done", timeout_s=60,
    )  # fmt: skip
    assert job["attempts"] == 1
    waiting = cluster.count("SELECT count(*) FROM queue WHERE tenant_id = %s", other)
    assert waiting > number // 2, "the backlog was done first: the fault did not bite"
