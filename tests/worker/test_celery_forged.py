"""Messages that nobody of ours sent, in a real worker's queue: refused or ignored, counted, and the worker lives."""

from __future__ import annotations

import base64
import json
import pickle
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from batchinfer.bus.app import CPU_QUEUE, INFER_TASK, make_celery, queue_for
from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.services import fleet, jobs

if TYPE_CHECKING:
    from celery import Celery

QUEUE = queue_for("fake-model", JobClass.NORMAL)
READY = "Started consuming from infer.fake-model.batch"


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def envelope(body: bytes, headers: Any, content_type: str = "application/json") -> bytes:
    """A message as kombu lays it into Redis."""
    properties = {
        "correlation_id": str(uuid4()),
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QUEUE.name},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": str(uuid4()),
    }
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "binary" if "python" in content_type else "utf-8",
            "content-type": content_type,
            "headers": headers,
            "properties": properties,
        }
    ).encode()


def headers(task: Any = INFER_TASK, **more: Any) -> dict[str, Any]:
    return {"lang": "py", "task": task, "id": str(uuid4()), "root_id": None, "parent_id": None, **more}


def body_of(*args: Any, **kwargs: Any) -> bytes:
    return json.dumps([args, kwargs, {}]).encode()


def read_stats(app: Celery) -> dict[str, Any]:
    found: dict[str, Any] = app.control.inspect(timeout=60.0, destination=["model-0@here"]).stats()
    return dict(found["model-0@here"]["batchinfer"])


def test_what_nobody_of_ours_sent_is_refused_and_counted(work, launcher, until, settings, tmp_path) -> None:
    """A pickle, an unknown task, wrong shapes, and bytes that are no message."""
    process = launcher.start_model(poll_s=30.0)
    until(lambda: READY in process.read_log(), "the queues are added")
    bomb = tmp_path / "exploded"
    secret = "not-for-the-log"
    odd = [
        # What is under Celery's own protocol, as another program would send it.
        envelope(body_of("true"), headers("os.system")),
        envelope(body_of(secret), headers("posix.system")),
        envelope(pickle.dumps(([Bomb(bomb)], {}, {})), headers(), "application/x-python-serialize"),
        envelope(b"{no json " + secret.encode(), headers()),
        envelope(body_of([]), headers({"a": "dict"})),
        envelope(body_of([]), headers(eta="tomorrow or so")),
        envelope(body_of([]), []),
        envelope(body_of([]), None),
        envelope(b"[]", {}),
        # No message at all.
        b"\x80\x04\x95 garbage",
        b"[]",
        b"{}",
        b'{"body": 1, "headers": 1, "properties": 2}',
    ]
    for raw in odd:
        work.ctx.redis.lpush(QUEUE.name, raw)
    until(lambda: work.ctx.redis.llen(QUEUE.name) == 0, "all are taken")
    assert work.wait(work.submit("still there"))[0].state is JobState.SUCCEEDED
    assert process.popen.poll() is None
    assert not bomb.exists(), "the pickle was opened"

    app = make_celery(settings, "test")
    refused = read_stats(app)["messages"]["refused"]
    app.close()
    assert refused["unknown task"] >= 2
    assert refused["not allowed"] >= 1
    assert sum(refused.values()) == len(odd), refused
    log = process.log.read_text()
    assert '"task": "os.system"' in log
    assert secret not in log
    assert "Unrecoverable" not in log
    # The count reaches Postgres with the sign of life, and from there whoever lists workers.
    until(
        lambda: fleet.list_workers(work.ctx, work.caller)[0].info["messages"]["refused"] == refused,
        "the list of workers shows the count",
    )


def test_forged_and_repeated_announcements_change_nothing(work, launcher, until, settings, tmp_path) -> None:
    """Ids of nothing, of ended, cancelled and foreign jobs, in every shape: nothing starts, ends or runs twice."""
    process = launcher.start_model(poll_s=30.0)
    until(lambda: READY in process.read_log(), "the queues are added")
    (done,) = work.wait(work.submit("done before"))
    (gone,) = work.wait(jobs.cancel_job(work.ctx, work.caller, work.submit("[[steps:500]]")).id)
    assert gone.state is JobState.CANCELLED
    app = make_celery(settings, "test")
    forged: list[list[Any]] = [
        [[done.id.hex] * 1000],
        [[new_id().hex for _ in range(1000)]],
        [[gone.id.hex]],
        [[uuid4().hex, "no id", "", None, 7, {"id": 1}, ["x"] * 10, "job_" + done.id.hex]],
        [["a" * 2**20]],
        [],
        [1],
        ["text"],
        [{}],
        [[done.id.hex], [done.id.hex], "more"],
    ]
    for args in forged:
        for queue, task in ((QUEUE, INFER_TASK), (queue_for("fake-model", JobClass.BATCH), INFER_TASK)):
            app.send_task(task, args=args, queue=queue, retry=False)
    app.send_task(INFER_TASK, args=[[]], kwargs={"job": done.id.hex, "self": 1}, queue=QUEUE, retry=False)
    app.send_task(INFER_TASK, args=[[done.id.hex]], queue=CPU_QUEUE, retry=False)
    until(lambda: work.ctx.redis.llen(QUEUE.name) == 0, "all are taken")
    again = work.wait(work.submit("still there"))[0]
    assert (again.state, again.attempts) == (JobState.SUCCEEDED, 1)
    assert work.get(done.id) == done
    assert work.get(gone.id) == gone
    assert work.outcomes(done.id) == ["succeeded"]

    def find_settled() -> dict[str, Any] | None:
        found = read_stats(app)
        # A result is seen in the database a moment before its worker has counted it and let go of it.
        return found if (found["completed"], found["held"]) == (2, 0) else None

    stats = until(find_settled, "two are counted and nothing is held")
    app.close()
    assert stats["failed"] == 0
    # The cancelled job may have been held for a moment: its end is then the one thing that was fenced out.
    assert stats["fenced"] <= 1
    assert stats["messages"]["announcements"] >= len(forged)
    assert process.popen.poll() is None


def test_an_announcement_wakes_before_the_poll_floor_and_nothing_is_lost_without(
    work, launcher, until, settings
) -> None:
    """Of a worker that looks once a minute only what is announced starts; of one that looks often, all."""
    # It beats as seldom: nothing but a message makes it look.
    process = launcher.start_model(poll_s=60.0, heartbeat_s=60.0, lease_ttl_s=300.0)
    until(lambda: READY in process.read_log(), "the queues are added")
    for number in range(4):
        assert work.wait(work.submit(f"announced {number}"), timeout_s=50)[0].state is JobState.SUCCEEDED
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0

    process = launcher.start_model(poll_s=1.0)
    until(lambda: READY in process.read_log(), "the queues are added")
    lost = [submit_unannounced(work, f"lost {number}") for number in range(2)]
    assert {job.state for job in work.wait(*lost)} == {JobState.SUCCEEDED}
    app = make_celery(settings, "test")
    stats = read_stats(app)
    app.close()
    assert stats["messages"]["announcements"] == 0, "they were found by looking alone"


def submit_unannounced(work: Any, text: str) -> Any:
    """A submission whose announcement gets lost on its way."""
    breaker = work.ctx.announcer.breaker
    breaker.fail()
    try:
        return work.submit(text)
    finally:
        breaker.succeed()
