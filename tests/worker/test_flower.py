"""Jobs as Celery's own tools see them: the standard task events, read by Celery's receiver and by the real Flower."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr

from batchinfer.bus.app import INFER_TASK, make_celery
from batchinfer.domain.ids import JOB, show_id
from batchinfer.domain.jobs import JobState
from batchinfer.services import jobs
from batchinfer.stack.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchinfer.settings import Settings

SLOW = ("--engine-options", '{"steps_per_s": 20}')
LONG = "[[steps:100000]]"
SECRET = "a-word-of-the-prompt"


class Listener(threading.Thread):
    """Reads events into Celery's own picture of tasks, as Flower does."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self.app = make_celery(settings, "listener")
        self.state = self.app.events.State()
        self.raw: list[dict[str, Any]] = []
        self.quit = threading.Event()
        self.ready = threading.Event()

    def run(self) -> None:
        with self.app.connection_for_read() as connection:
            receiver = self.app.events.Receiver(connection, handlers={"*": self.read})
            with receiver.consumer_context() as (channel, _, _):
                self.ready.set()
                while not self.quit.is_set():
                    with suppress(socket.timeout):
                        channel.drain_events(timeout=0.2)

    def read(self, event: dict[str, Any]) -> None:
        self.raw.append(event)
        self.state.event(event)

    def states(self) -> dict[str, str]:
        return {uuid: task.state for uuid, task in list(self.state.tasks.items())}


@pytest.fixture
def listener(settings: Settings) -> Iterator[Listener]:
    thread = Listener(settings)
    thread.start()
    assert thread.ready.wait(100)
    yield thread
    thread.quit.set()
    thread.join(100)
    thread.app.close()


def test_every_end_of_a_job_has_its_event(make_rig, work, until, listener) -> None:
    rig = make_rig(slots=8, steps_per_s=20, task_events=True, heartbeat_s=0.2)
    rig.crew.start(threading.Event())
    good, bad = work.submit(f"[[steps:2]] {SECRET}"), work.submit(f"[[fail:boom]] {SECRET}")
    long, cancelled = work.submit(LONG), work.submit(LONG)
    work.wait(good, bad)
    work.wait_running(long, cancelled)
    jobs.cancel_job(work.ctx, work.caller, cancelled)
    wanted = {good: "SUCCESS", bad: "FAILURE", long: "STARTED", cancelled: "REVOKED"}
    until(
        lambda: listener.states() == {show_id(JOB, job_id): state for job_id, state in wanted.items()},
        f"the four states, not {listener.states()}",
    )
    rig.crew.drain(0.0, "the test ended")
    until(lambda: listener.states()[show_id(JOB, long)] == "RETRY", "it was given back")
    tasks = listener.state.tasks
    assert {task.name for task in tasks.values()} == {INFER_TASK}
    assert {task.hostname for task in tasks.values()} == {"rig@here"}
    assert tasks[show_id(JOB, bad)].exception == "boom"
    assert tasks[show_id(JOB, good)].result == "stop"
    assert tasks[show_id(JOB, good)].runtime > 0
    assert "fake-model" in tasks[show_id(JOB, good)].kwargs
    assert SECRET not in str(listener.raw)
    assert rig.crew.events.counts() == {"sent": 12, "dropped": 0}


def test_without_the_setting_nothing_is_told(make_rig, work, listener) -> None:
    rig = make_rig()
    rig.crew.start(threading.Event())
    assert work.wait(work.submit())[0].state is JobState.SUCCEEDED
    rig.crew.drain(0.0, "the test ended")
    assert rig.crew.events.counts() == {"sent": 0, "dropped": 0}
    assert listener.states() == {}


def test_events_that_redis_does_not_take_harm_no_job(make_rig, work, until) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        closed = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
    rig = make_rig(task_events=True, redis_url=SecretStr(closed))
    rig.crew.start(threading.Event())
    ids = [work.submit(f"job {number}") for number in range(5)]
    assert {job.state for job in work.wait(*ids)} == {JobState.SUCCEEDED}
    until(lambda: rig.crew.describe()["task_events"]["dropped"] > 0, "the loss is counted")
    assert work.wait(work.submit("still there"))[0].state is JobState.SUCCEEDED
    assert rig.crew.events.counts()["sent"] == 0


@pytest.mark.long
def test_flower_shows_jobs_as_tasks(work, launcher, until) -> None:
    port = next(free_ports())
    launcher.start(
        "workers.model", "flower", "--address=127.0.0.1", f"--port={port}", "--basic-auth=tester:word", "--logging=info"
    )
    launcher.start_model(*SLOW, slots=8, task_events=True)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=("tester", "word"), timeout=60) as flower:

        def read_tasks() -> dict[str, Any]:
            with suppress(httpx.TransportError):
                answer = flower.get("/api/tasks", params={"limit": 1000})
                return dict(answer.json()) if answer.status_code == 200 else {}
            return {}

        def is_listening() -> bool:
            (probe,) = work.wait(work.submit("[[steps:1]]"))
            return show_id(JOB, probe.id) in read_tasks()

        until(is_listening, "Flower hears the events")
        good, bad = work.submit(f"[[steps:2]] {SECRET}"), work.submit(f"[[fail:boom]] {SECRET}")
        long, cancelled = work.submit(LONG), work.submit(LONG)
        work.wait(good, bad)
        work.wait_running(long, cancelled)
        jobs.cancel_job(work.ctx, work.caller, cancelled)
        wanted = {good: "SUCCESS", bad: "FAILURE", long: "STARTED", cancelled: "REVOKED"}

        shown = [show_id(JOB, job_id) for job_id in wanted]

        def find_states() -> dict[str, str]:
            tasks = read_tasks()
            return {name: tasks[name]["state"] for name in shown if name in tasks}

        until(
            lambda: find_states() == {show_id(JOB, job_id): state for job_id, state in wanted.items()},
            "Flower shows the four states",
        )
        tasks = read_tasks()
        # The messages that announce ids are none of them: only jobs are tasks.
        assert {task["name"] for task in tasks.values()} == {INFER_TASK}
        assert all(name.startswith(JOB) for name in tasks)
        assert tasks[show_id(JOB, bad)]["exception"] == "boom"
        page = flower.get(f"/api/task/info/{show_id(JOB, good)}")
        assert page.json()["worker"] == "model-0@here"
        assert SECRET not in page.text + str(tasks)
        until(lambda: "model-0@here" in flower.get("/api/workers", params={"refresh": 1}).json(), "it sees the worker")
        assert flower.get("/").status_code == 200
