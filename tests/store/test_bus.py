"""What Redis carries, all of it losable: announcements, the done-bell, control messages."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from kombu import Connection

from batchinfer.bus.announce import MESSAGE_IDS, QUEUE_MESSAGES, Announcer
from batchinfer.bus.app import CPU_QUEUE_NAME, make_celery, open_redis, queue_name
from batchinfer.bus.bell import CHANNEL, DoneBell
from batchinfer.bus.control import Control
from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.prompts import JobRequest, Upload
from batchinfer.services import jobs, upkeep, work
from batchinfer.settings import Settings
from batchinfer.store.claims import PREPARE


def messages(ctx, name):
    """(task, ids, seconds until it expires) of each message in a queue, oldest first."""
    found = []
    for raw in reversed(ctx.redis.lrange(name, 0, -1)):
        message = json.loads(raw)
        (ids,), _, _ = json.loads(base64.b64decode(message["body"]))
        found.append((message["headers"]["task"], ids, float(message["properties"]["expiration"]) / 1000))
    return found


def ask(*uploads):
    content = [{"type": "text", "text": "Read."}]
    message = {"role": "user", "content": content}
    return JobRequest("reader", JobClass.INTERACTIVE, (message,), uploads, {}, 9, (), None, {}, None)


def at_port(settings: Settings, port: int) -> Settings:
    return settings.model_copy(update={"redis_url": type(settings.redis_url)(f"redis://127.0.0.1:{port}/0")})


@pytest.fixture
def dead_port():
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


@pytest.fixture
def silent_port():
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def test_a_submission_announces_its_id_to_its_model_and_class(bench):
    job, _ = jobs.submit(bench.ctx, bench.caller, ask())
    assert messages(bench.ctx, "infer.reader.interactive") == [("batchinfer.infer", [job.id.hex], 30.0)]


def test_pictures_and_documents_are_announced_to_the_cpu_workers(bench):
    picture = Upload(data=b"\x89PNG\r\n\x1a\n", filename=None, param="file")
    job, _ = jobs.submit(bench.ctx, bench.caller, ask(picture))
    document, _ = jobs.submit(bench.ctx, bench.caller, ask(replace(picture, data=b"%PDF-1")))
    assert [(task, ids) for task, ids, _ in messages(bench.ctx, CPU_QUEUE_NAME)] == [
        ("batchinfer.prepare", [job.id.hex]), ("batchinfer.prepare", [document.id.hex])
    ]  # fmt: skip
    (claim, _) = bench.claim(lease := bench.open(), kinds=[PREPARE, "render"], model=None)
    work.mark_prepared(bench.ctx, lease, claim, [])
    assert [ids for _, ids, _ in messages(bench.ctx, "infer.reader.interactive")] == [[job.id.hex]]


def test_what_comes_back_is_announced_again(bench):
    ids = bench.put(3)
    bench.put(2, kind=PREPARE)
    lease = bench.open()
    bench.claim(lease, kinds=["infer", PREPARE], model=None)
    bench.ctx.redis.flushdb()
    work.release(bench.ctx, lease)
    ((_, announced, _),) = messages(bench.ctx, "infer.reader.normal")
    assert sorted(announced) == sorted(i.hex for i in ids)
    assert len(messages(bench.ctx, CPU_QUEUE_NAME)[0][1]) == 2


def test_a_real_celery_consumer_reads_it(bench):
    """Kombu's own consumer finds the message where it looks, in the form that it expects."""
    job, _ = jobs.submit(bench.ctx, bench.caller, ask())
    with Connection(bench.ctx.settings.require_redis_url()) as connection:
        queue = connection.SimpleQueue("infer.reader.interactive")
        message = queue.get(timeout=20)
        assert message.payload[0] == [[job.id.hex]]
        assert message.content_type == "application/json"
        message.ack()
        queue.close()


def test_many_ids_go_in_few_messages(context):
    ids = [new_id() for _ in range(2 * MESSAGE_IDS + 1)]
    assert context.announcer.announce("m", JobClass.BATCH, ids)
    found = messages(context, "infer.m.batch")
    assert [len(entry[1]) for entry in found] == [MESSAGE_IDS, MESSAGE_IDS, 1]
    assert [i for entry in found for i in entry[1]] == [i.hex for i in ids]
    assert context.announcer.announce("m", JobClass.BATCH, [])
    assert context.announcer.sent == 3


def test_a_full_queue_is_left_alone(context):
    for _ in range(QUEUE_MESSAGES + 5):
        context.announcer.announce("m", JobClass.NORMAL, [new_id()])
    assert context.redis.llen("infer.m.normal") == QUEUE_MESSAGES
    assert context.announcer.spared == 5
    assert context.announcer.failures == 0
    context.redis.lpop("infer.m.normal")
    assert not context.announcer.announce("m", JobClass.NORMAL, [new_id() for _ in range(2 * MESSAGE_IDS)])
    assert context.redis.llen("infer.m.normal") == QUEUE_MESSAGES


def test_names_of_queues_hold_no_surprises():
    assert queue_name("docreader", JobClass.NORMAL) == "infer.docreader.normal"
    assert queue_name("org/model:v1 \n*", JobClass.BATCH) == "infer.org_model_v1___.batch"


def test_the_application_is_safe_by_its_settings(settings):
    conf = make_celery(settings).conf
    assert conf.broker_url.startswith("redis://")
    assert conf.result_backend is None
    assert list(conf.accept_content) == ["json"]
    assert conf.task_serializer == "json"
    assert (conf.task_create_missing_queues, conf.task_publish_retry, conf.task_acks_late) == (False, False, False)
    assert conf.broker_transport_options["socket_timeout"] > 0


@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_without_redis_submissions_go_on_and_soon_no_longer_try(bench, kind, request, caplog):
    settings = at_port(bench.ctx.settings, request.getfixturevalue(f"{kind}_port"))
    celery, redis = make_celery(settings), open_redis(settings)
    announcer, control, bell = Announcer(celery, redis), Control(celery, redis), DoneBell(redis)
    announcer.breaker.pause_s = control.breaker.pause_s = bell.breaker.pause_s = 600
    ctx = replace(bench.ctx, announcer=announcer, control=control, bell=bell)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        ids = [jobs.submit(ctx, bench.caller, ask())[0].id for _ in range(20)]
        jobs.cancel_job(ctx, bench.caller, ids[0])
    assert time.monotonic() - began < 60, "one try each costs half a second, the others nothing"
    assert announcer.failures == 20
    assert announcer.breaker.failures == 1
    assert sum("announcements fail" in record.message for record in caplog.records) == 1
    assert len(bench.claim(bench.open())) == 19
    bell.close()
    announcer.close()
    redis.close()


def test_when_redis_comes_back_announcements_do_too(context, dead_port):
    lost = open_redis(at_port(context.settings, dead_port))
    announcer = Announcer(context.announcer.celery, lost)
    announcer.breaker.pause_s = 0
    assert not announcer.announce("m", JobClass.NORMAL, [new_id()])
    assert announcer.breaker.is_open
    announcer.redis = context.redis
    assert announcer.announce("m", JobClass.NORMAL, [new_id()])
    assert not announcer.breaker.is_open
    lost.close()


def test_a_full_redis_is_counted(context):
    limit = context.redis.config_get("maxmemory")["maxmemory"]
    policy = context.redis.config_get("maxmemory-policy")["maxmemory-policy"]
    context.redis.config_set("maxmemory-policy", "noeviction")
    context.redis.config_set("maxmemory", "1")
    try:
        assert not context.announcer.announce("m", JobClass.NORMAL, [new_id()])
    finally:
        context.redis.config_set("maxmemory", limit)
        context.redis.config_set("maxmemory-policy", policy)
    assert context.announcer.failures == 1


def test_the_bell_wakes_those_who_wait_for_that_job(context):
    mine, other = new_id(), new_id()
    woken = []

    def wait(job_id, timeout_s):
        woken.append(context.bell.wait(job_id, timeout_s))

    waiters = [threading.Thread(target=wait, args=(mine, 30)) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    _until(lambda: dict(context.redis.pubsub_numsub(CHANNEL))[CHANNEL] == 1)
    _until(lambda: len(context.bell._waiting.get(mine, ())) == 3)
    context.redis.publish(CHANNEL, "nonsense,,\x00")
    assert not context.bell.wait(other, 0.05)
    context.bell.ring([other, mine])
    for waiter in waiters:
        waiter.join(timeout=30)
    assert woken == [True] * 3
    assert context.bell._waiting == {}


def test_the_bell_rings_for_every_end(bench):
    ended = {}
    for name in ("complete", "cancel", "expire", "quarantine"):
        (job_id,) = bench.put()
        lease = bench.open(name)
        (claim,) = bench.claim(lease)
        with bench.ctx.bell.listening(job_id) as event:
            _until(lambda: dict(bench.ctx.redis.pubsub_numsub(CHANNEL))[CHANNEL] == 1)
            if name == "complete":
                bench.complete(lease, [claim])
            elif name == "cancel":
                jobs.cancel_job(bench.ctx, bench.caller, job_id)
            elif name == "expire":
                bench.run("UPDATE queue SET expires_at = now() - interval '1 second'")
                upkeep.tick(bench.ctx)
            else:
                bench.run("UPDATE queue SET attempt = 5, crashes = 4, suspected = 4")
                work.end_lease(bench.ctx, lease, "killed", clean=False)
            ended[name] = event.wait(30)
    assert ended == dict.fromkeys(ended, True)


def test_cancelling_what_runs_tells_the_workers(bench):
    (job_id,) = bench.put()
    bench.claim(bench.open())
    heard = []
    app = bench.ctx.announcer.celery
    with app.connection_for_read() as connection:
        mailbox = app.control.mailbox
        node = mailbox.Node("listener", channel=connection.default_channel)
        node.handlers["cancel_job"] = lambda _state, ids: heard.extend(ids)
        with node.listen():
            with suppress(TimeoutError):  # the first look subscribes
                connection.drain_events(timeout=0.5)
            jobs.cancel_job(bench.ctx, bench.caller, job_id)
            _until(lambda: connection.drain_events(timeout=20) or heard)
    assert heard == [job_id.hex]


def _until(condition, limit_s=30):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
