"""Celery's own command line against real workers: what it says is what Postgres says, what it orders happens."""

from __future__ import annotations

import json
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from batchinfer.domain.ids import JOB, show_id
from batchinfer.domain.jobs import JobState
from batchinfer.services import fleet, models, upkeep
from batchinfer.services import work as verbs
from batchinfer.services.context import open_context
from batchinfer.stack.valkey import EmbeddedValkey
from batchinfer.store import leases
from batchinfer.web import create_app

#: So slow that nothing long ends while the command line is asked five times.
SLOW = ("--engine-options", '{"steps_per_s": 2}')
LONG = "[[steps:100000]]"
NAME = "model-0@here"
READY = "Started consuming from infer.fake-model.batch"


def ask_celery(launcher: Any, *arguments: str, module: str = "workers.model") -> dict[str, Any]:
    """What `celery -A workers.model … --json` answers, by worker."""
    tool = launcher.start(module, *arguments, "--json", "-t", "60", "-d", NAME)
    status, said = tool.wait(), tool.log.read_text()
    assert status == 0, said
    found: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines() if line.startswith(("{", "["))]
    answer = found[-1]
    # `control` answers with a list of one object a worker.
    return {name: reply for one in answer for name, reply in one.items()} if isinstance(answer, list) else answer


def read_queue(work: Any, lease_id: str) -> dict[str, int]:
    """The rows that a lease holds: public id and attempt."""
    with work.ctx.db.transaction() as tx:
        held = text("SELECT id, attempt FROM queue WHERE state = 'running' AND lease_id = CAST(:lease_id AS uuid)")
        rows = tx.execute(held, {"lease_id": lease_id}).all()
    return {show_id(JOB, row.id): row.attempt for row in rows}


@pytest.mark.long
def test_the_command_line_tells_the_truth_and_is_obeyed(work, launcher, until) -> None:
    process = launcher.start_model(*SLOW, slots=2, poll_s=30.0, heartbeat_s=1.0, drain_s=0.5)
    until(lambda: READY in process.read_log(), "the queues are added")
    assert work.wait(work.submit("[[steps:1]]"))[0].state is JobState.SUCCEEDED
    ids = [work.submit(f"{LONG} {number}") for number in range(3)]
    queued = work.submit(LONG)
    work.wait_running(*ids)

    assert ask_celery(launcher, "inspect", "ping") == {NAME: {"ok": "pong"}}

    (worker,) = [found for found in fleet.list_workers(work.ctx, work.caller) if not found.dead]
    least_s = time.time() - worker.opened_at.timestamp()
    stats = ask_celery(launcher, "inspect", "stats")[NAME]["batchinfer"]
    most_s = time.time() - worker.opened_at.timestamp()
    (worker,) = [found for found in fleet.list_workers(work.ctx, work.caller) if not found.dead]
    assert (stats["model"], stats["revision"], stats["slots"]) == ("fake-model", "r1", 2)
    assert stats["lease_id"] == str(worker.lease_id)
    assert (stats["held"], stats["completed"]) == (worker.running, 1) == (3, 1)
    assert least_s - 1 < stats["lease_age_s"] < most_s + 1
    assert stats["messages"]["announcements"] >= 1
    assert stats["announcements"]["failed"] == 0

    held = ask_celery(launcher, "inspect", "jobs")[NAME]
    assert {job["id"]: job["attempt"] for job in held} == read_queue(work, stats["lease_id"])
    assert sorted(job["stage"] for job in held) == ["decoding", "decoding", "waiting"]
    assert {job["lease_id"] for job in held} == {stats["lease_id"]}
    assert {(job["kind"], job["model"], job["class"]) for job in held} == {("infer", "fake-model", "normal")}
    assert all(0 <= job["age_s"] < 600 for job in held)
    assert show_id(JOB, queued) not in {job["id"] for job in held}

    # It cancels what this worker holds, and nothing else.
    answer = ask_celery(launcher, "control", "cancel_job", show_id(JOB, ids[0]), str(ids[1]), queued.hex, "no-id")
    assert sorted(answer[NAME]["held"]) == sorted(show_id(JOB, job_id) for job_id in ids[:2])
    assert {job.state for job in work.wait(*ids[:2])} == {JobState.CANCELLED}
    until(lambda: work.state(queued) is JobState.RUNNING, "the freed slots are filled")

    assert ask_celery(launcher, "control", "drain") == {NAME: {"ok": "draining"}}
    assert process.wait() == 0
    assert (work.state(ids[2]), work.state(queued)) == (JobState.QUEUED, JobState.QUEUED)
    assert work.outcomes(ids[2]) == ["released"]


def test_stages_of_what_a_worker_holds(make_rig, work, until) -> None:
    """Waiting for a slot, decoding, and storing while the database is locked."""
    rig = make_rig(slots=1, steps_per_s=50)
    rig.crew.start(threading.Event())
    first, second = work.submit("[[steps:200]]"), work.submit(LONG)
    work.wait_running(first, second)

    def stages() -> dict[str, str]:
        return {job["id"]: job["stage"] for job in rig.crew.list_jobs()}

    until(lambda: stages() == {show_id(JOB, first): "decoding", show_id(JOB, second): "waiting"}, "one of each")
    with work.ctx.db.transaction() as tx:
        tx.execute(text("SELECT 1 FROM queue WHERE id = :id FOR UPDATE"), {"id": first})
        until(lambda: stages().get(show_id(JOB, first)) == "storing", "its result waits for the lock")
        assert stages()[show_id(JOB, second)] == "decoding"
    work.wait(first)
    until(lambda: list(stages()) == [show_id(JOB, second)], "what is stored is held no more")


@pytest.mark.long
def test_everything_starts_without_redis_and_rings_once_it_is_there(work, launcher, until, settings, tmp_path) -> None:
    """Web and worker come up with Redis down, and again live through its loss; nothing of theirs is restarted."""
    valkey = EmbeddedValkey(tmp_path / "late")
    address = SecretStr(valkey.start())
    valkey.stop()
    ctx = open_context(settings.model_copy(update={"redis_url": address}))
    work = replace(work, ctx=ctx)
    web = create_app(context=ctx).test_client()

    def count_announced(least: int) -> bool:
        """Whether the worker was rung; each look rings once more."""
        work.submit("ring")
        with ctx.db.transaction() as tx:
            (worker,) = [found for found in leases.list_workers(tx) if not found.dead]
        return worker.info["messages"]["announcements"] >= least

    try:
        process = launcher.start_model(redis_url=address)
        assert work.wait(work.submit("by polling"))[0].state is JobState.SUCCEEDED
        body = web.get("/readyz").json
        assert body["checks"]["redis"]["ok"] is False
        assert body["announcements"]["sent"] == 0
        assert body["announcements"]["failed"] >= 1
        for rings in (1, 3):
            valkey.start()
            until(lambda rings=rings: count_announced(rings), "announcements arrive")
            until(lambda: web.get("/readyz").json["checks"]["redis"]["ok"], "the web server sees Redis")
            valkey.stop()
            assert work.wait(work.submit("by polling again"))[0].state is JobState.SUCCEEDED
        assert process.popen.poll() is None
    finally:
        valkey.stop()
        ctx.close()


def test_a_worker_lost_while_it_loads_has_failed_at_once(work) -> None:
    replica = verbs.record_replica(work.ctx, worker="m@here", model="fake-model", device="cpu", state="loading")
    assert models.get_model(work.ctx, work.caller, "fake-model").state == "loading"
    assert fleet.end_process(work.ctx, "here", 1, "killed by signal 9", worker="m@here") == 0
    (found,) = [row for row in fleet.list_replicas(work.ctx, work.caller) if row.id == replica]
    assert (found.state, found.error["code"]) == ("failed", "worker_lost")
    assert found.ended_at is not None
    assert models.get_model(work.ctx, work.caller, "fake-model").state == "failed"

    # One begun since then is another's.
    again = verbs.record_replica(work.ctx, worker="m@here", model="fake-model", device="cpu", state="verifying")
    fleet.end_process(work.ctx, "here", 1, "seen late", worker="m@here", ended_ago_s=60.0)
    (found,) = [row for row in fleet.list_replicas(work.ctx, work.caller) if row.id == again]
    assert found.state == "verifying"

    # Its lease was opened and lost before its row named it.
    lease_id = verbs.open_lease(work.ctx, role="model", worker="m@here", host="here", pid=1)
    verbs.end_lease(work.ctx, lease_id, "silent", clean=False)
    (found,) = [row for row in fleet.list_replicas(work.ctx, work.caller) if row.id == again]
    assert found.state == "failed"


@pytest.mark.long
@pytest.mark.parametrize("lease_ttl_s", [4.0])  # it waits for the end of one
def test_a_worker_that_was_taken_for_dead_is_ready_again(work, launcher, until) -> None:
    process = launcher.start_model()
    until(lambda: models.get_model(work.ctx, work.caller, "fake-model").state == "ready", "it is ready")
    process.popen.send_signal(signal.SIGSTOP)
    until(lambda: upkeep.tick(work.ctx).leases_ended == 1, "its lease is reaped")
    assert models.get_model(work.ctx, work.caller, "fake-model").state == "failed"
    process.popen.send_signal(signal.SIGCONT)
    until(lambda: models.get_model(work.ctx, work.caller, "fake-model").state == "ready", "it is ready again")
    (alive,) = [row for row in fleet.list_replicas(work.ctx, work.caller) if row.ended_at is None]
    (lease,) = [row for row in fleet.list_workers(work.ctx, work.caller) if not row.dead]
    assert alive.lease_id == lease.lease_id
