"""Real model workers: `celery -A workers.model worker` as processes, killed, stopped, frozen and cut off."""

from __future__ import annotations

import re
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from batchinfer.bus.app import make_celery, queue_for
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.services import fleet, jobs, models, upkeep
from workers.watchdog import EXIT_HUNG, EXIT_MODEL

if TYPE_CHECKING:
    from batchinfer.store.leases import Worker

SLOW = ("--engine-options", '{"steps_per_s": 50}')
FAULTS = ("--engine-options", '{"allow_faults": true}')
LONG = "[[steps:100000]]"
#: Less than `poll_s` where it is 60: what starts within was announced.
WITHOUT_A_LOOK_S = 50.0


def find_worker(work: Any, process: Any) -> Worker | None:
    found = fleet.list_workers(work.ctx, work.caller)
    return next((worker for worker in found if worker.pid == process.pid), None)


def state_of_model(work: Any) -> str:
    return models.get_model(work.ctx, work.caller, "fake-model").state


def report_end(work: Any, process: Any) -> int:
    return fleet.end_process(work.ctx, socket.gethostname(), process.pid, "the test saw it end")


def test_a_killed_worker_loses_nothing(work, launcher, until) -> None:
    process = launcher.start_model(*SLOW, slots=8)
    ids = [work.submit(f"[[steps:3000]] {number}") for number in range(12)]  # a minute here, a moment below
    work.wait_running(*ids[:8])
    process.popen.kill()
    process.wait()
    assert report_end(work, process) >= 8
    launcher.start_model(slots=8, name="model-1")
    found = work.wait(*ids)
    assert {job.state for job in found} == {JobState.SUCCEEDED}
    assert {job.attempts for job in found} == {1}
    assert work.outcomes(ids[0])[0] == "lost"
    assert [outcome for job_id in ids for outcome in work.outcomes(job_id)].count("succeeded") == 12


def test_sigterm_gives_back_what_does_not_end_in_time(work, launcher, until) -> None:
    process = launcher.start_model(*SLOW, slots=2, drain_s=5.0)
    short, long = work.submit("[[steps:20]]"), work.submit(LONG)
    waiting = work.submit(LONG)
    work.wait_running(short, long)
    # Written just after the first claim may have been made.
    until(lambda: state_of_model(work) == "ready", "the replica is ready")
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert [work.state(job_id) for job_id in (short, long, waiting)] == [
        JobState.SUCCEEDED,
        JobState.QUEUED,
        JobState.QUEUED,
    ]
    assert (work.get(long).attempts, work.get(long).crashes, work.outcomes(long)) == (0, 0, ["released"])
    worker = find_worker(work, process)
    assert worker is not None
    assert (worker.dead, worker.running, worker.worker) == (True, 0, "model-0@here")
    assert state_of_model(work) == "stopped"


def test_work_flows_and_ends_in_order_without_redis(work, launcher, until) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        closed = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
    process = launcher.start_model(*SLOW, redis_url=SecretStr(closed), drain_s=0.5)
    assert {job.state for job in work.wait(*(work.submit(f"job {n}") for n in range(6)))} == {JobState.SUCCEEDED}
    long = work.submit(LONG)
    work.wait_running(long)
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert work.outcomes(long) == ["released"]


def test_announcements_and_control(work, launcher, until, settings) -> None:
    """One worker that looks and beats so seldom that only messages explain what it does."""
    process = launcher.start_model(*SLOW, poll_s=60.0, heartbeat_s=60.0, lease_ttl_s=300.0, drain_s=0.5)
    until(lambda: "Started consuming from infer.fake-model.batch" in process.read_log(), "the queues are added")
    for name in ("interactive", "normal", "batch"):
        (job,) = work.wait(work.submit(f"wake up for {name}", **{"class": name}), timeout_s=WITHOUT_A_LOOK_S)
        assert job.state is JobState.SUCCEEDED

    app = make_celery(settings, "test")

    def read_stats() -> Any:
        found = app.control.inspect(timeout=60.0, destination=["model-0@here"]).stats()["model-0@here"]["batchinfer"]
        # A result is seen in the database a moment before its worker has counted it and let go of it.
        return found if (found["completed"], found["held"], found["running"]) == (3, 0, 0) else None

    stats = until(read_stats, "three are counted and nothing is held")
    assert (stats["model"], stats["revision"], stats["engine"], stats["slots"]) == ("fake-model", "r1", "fake", 4)
    worker = find_worker(work, process)
    assert worker is not None
    assert stats["lease_id"] == str(worker.lease_id)
    assert stats["lease_age_s"] > 0
    assert {"batchinfer", "engine"} <= stats["versions"].keys()
    assert (job.result or {})["versions"] == stats["versions"]
    assert "rows_per_step" in stats

    job_id = work.submit(LONG)
    work.wait_running(job_id)
    jobs.cancel_job(work.ctx, work.caller, job_id)
    until(lambda: "work stopped: its rows are gone" in process.read_log(), "the control message arrives")

    # A message that names anything, or nothing, changes nothing; an unknown task and a pickle are refused.
    queue = queue_for("fake-model", JobClass.NORMAL)
    for arguments in ([["no id"]], [], [[{"id": 1}]]):
        app.send_task("batchinfer.infer", args=arguments, queue=queue, retry=False)
    app.send_task("os.system", args=["true"], queue=queue, retry=False)
    app.send_task("batchinfer.infer", args=[[]], queue=queue, serializer="pickle", retry=False)
    until(lambda: work.ctx.redis.llen(queue.name) == 0, "the messages are taken")
    assert work.wait(work.submit("still there"), timeout_s=WITHOUT_A_LOOK_S)[0].state is JobState.SUCCEEDED
    assert process.popen.poll() is None

    app.control.broadcast("drain", destination=["model-0@here"])
    assert process.wait() == 0
    app.close()


def test_announcements_come_again_after_redis_was_away(work, launcher, until, settings, make_proxy) -> None:
    proxy, address = make_proxy(settings.redis_url)
    process = launcher.start_model(poll_s=60.0, redis_url=address)
    until(lambda: "Started consuming from infer.fake-model.batch" in process.read_log(), "the queues are added")
    proxy.cut()
    until(lambda: "onnection" in process.read_log().partition("fake-model.batch")[2], "Celery notices")
    proxy.mend()
    until(lambda: process.read_log().count("Connected to redis") >= 2, "Celery connects again")
    assert work.wait(work.submit("wake up"), timeout_s=WITHOUT_A_LOOK_S)[0].state is JobState.SUCCEEDED


@pytest.mark.long
@pytest.mark.parametrize("lease_ttl_s", [4.0])  # it waits for the end of one
def test_a_frozen_worker_comes_back_as_nobody(work, launcher, until) -> None:
    process = launcher.start_model(*SLOW, slots=4)
    ids = [work.submit(f"[[steps:3000]] {number}") for number in range(4)]
    work.wait_running(*ids)
    process.popen.send_signal(signal.SIGSTOP)
    until(lambda: upkeep.tick(work.ctx).leases_ended == 1, "its lease is reaped")
    other = launcher.start_model(name="model-1", slots=4)
    assert {job.state for job in work.wait(*ids)} == {JobState.SUCCEEDED}
    process.popen.send_signal(signal.SIGCONT)
    until(lambda: "its work is dropped" in process.read_log(), "it learns that its lease is dead")
    until(lambda: process.read_log().count('"lease opened"') >= 2, "it takes a new lease")
    other.kill()
    report_end(work, other)
    assert work.wait(work.submit("after"))[0].state is JobState.SUCCEEDED
    assert [work.outcomes(job_id) for job_id in ids] == [["lost", "succeeded"]] * 4


def test_a_hung_engine_ends_its_process(work, launcher) -> None:
    process = launcher.start_model(*FAULTS, watchdog_s=1.0)
    job_id = work.submit("[[hang]]")
    assert process.wait() == EXIT_HUNG
    assert report_end(work, process) == 1
    assert (work.state(job_id), work.get(job_id).crashes) == (JobState.QUEUED, 1)


def test_poison_dies_alone(work, launcher) -> None:
    innocents = [work.submit(f"innocent {number}") for number in range(2)]
    poison = work.submit("[[crash]]")
    innocents += [work.submit(f"innocent {number}") for number in range(2, 5)]
    starts = 0
    while work.state(poison) is not JobState.QUARANTINED:
        process = launcher.start_model(*FAULTS, name=f"model-{starts}", slots=8)
        process.wait()
        report_end(work, process)
        starts += 1
        assert starts <= 8, "the poison goes on killing"
    launcher.start_model(name="model-last", slots=8)
    found = work.wait(*innocents)
    assert {job.state for job in found} == {JobState.SUCCEEDED}
    assert work.get(poison).error["code"] == "worker_lost"


@pytest.mark.parametrize("engine", ["static", "nonsense"])
def test_a_model_that_cannot_be_loaded_says_so_and_ends(work, launcher, engine: str) -> None:
    process = launcher.start_model("--engine", engine)
    assert process.wait() == EXIT_MODEL
    assert state_of_model(work) == "failed"
    lines = [line for line in process.read_log().splitlines() if "cannot be loaded" in line]
    assert len(lines) == 1
    assert re.search(r"fake-model cannot be loaded \(\w+\)", lines[0])
    assert find_worker(work, process) is None  # never held a lease


def test_an_unknown_model_ends_the_process(work, launcher) -> None:
    process = launcher.start_model("--model", "no-such-model")
    assert process.wait() == EXIT_MODEL
    assert "There is no model named" in process.read_log()


def test_a_worker_that_waits_for_postgres_can_be_stopped(work, launcher, until, database_proxy) -> None:
    proxy, proxied = database_proxy
    proxy.cut()
    process = launcher.start_model(database_url=proxied)
    until(lambda: "waiting for a part that does not answer" in process.read_log(), "it waits")
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0
