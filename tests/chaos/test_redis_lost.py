"""Redis emptied, killed, silent, full and absent, and messages that nobody meant: only latency changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from batchinfer.bus.app import make_celery, queue_for
from batchinfer.domain.jobs import JobClass
from bench.chaos.calls import Caller
from bench.chaos.cluster import MODEL
from bench.chaos.ledger import list_states

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.chaos.cluster import Cluster

#: On top of the poll floor and the work itself: the other processes of a busy machine. What waits for a message that is
#: gone waits for ever, and a job that Redis alone remembered is lost.
SPARE_S = 60.0


def open_redis(cluster: Cluster) -> redis.Redis:
    return redis.Redis.from_url(cluster.servers.valkey.url, socket_timeout=5)


def find_waits_s(cluster: Cluster, ids: list[str]) -> list[float]:
    """Seconds from submission to end, by the database's clock, in order."""
    statement = """SELECT extract(epoch FROM finished_at - created_at)::float FROM jobs
        WHERE id = ANY (%s::uuid[]) ORDER BY 1"""
    return [row[0] for row in cluster.sql(statement, [one.removeprefix("job_") for one in ids])]


def test_emptied_again_and_again(cluster: Cluster, send: Any, settle_clean: Any, full: bool) -> None:
    """FLUSHALL every 2 s: queues, bindings and messages go; jobs wait for the poll floor at most."""
    load = send(cluster, 2000 if full else 400, rate_per_s=60)
    flushed = 0
    while not load.done:
        cluster.servers.flush()
        flushed += 1
        cluster.rest(2.0)
    settle_clean(cluster, load)
    assert flushed >= 3
    assert list_states(cluster, load.ids()) == {"succeeded": load.total}
    waits_s = find_waits_s(cluster, load.ids())
    assert waits_s[int(0.99 * len(waits_s))] < cluster.settings.poll_s + SPARE_S
    assert load.tally.statuses.keys() == {202}


def test_killed_and_back_empty(cluster: Cluster, send: Any, settle_clean: Any, full: bool) -> None:
    """kill -9: submissions are taken, work flows, and the workers listen again by themselves."""
    load = send(cluster, 1500 if full else 250, rate_per_s=25)
    cluster.rest(1.0)
    failing_before = count_failing(cluster)
    cluster.servers.kill_valkey()
    acknowledged = len(load.acks)
    cluster.wait(lambda: len(load.acks) > acknowledged + 50, "submissions are taken while Redis is down")
    cluster.wait(lambda: cluster.count("SELECT count(*) FROM results") > 0, "work flows while Redis is down")
    cluster.rest(60.0 if full else 3.0)
    cluster.servers.valkey.start()
    settle_clean(cluster, load)
    assert load.tally.statuses.keys() == {202}
    assert list_states(cluster, load.ids()) == {"succeeded": load.total}
    assert count_failing(cluster) > failing_before, "no announcement failed: the fault did not bite"
    expect_listeners(cluster, send, settle_clean)


def expect_listeners(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """What is announced is taken: only a consumer takes a message out of its queue."""
    name = queue_for(MODEL, JobClass.NORMAL).name
    with open_redis(cluster) as client:
        cluster.wait(lambda: client.client_list(_type="normal") and count_blocked(client) >= 2, "workers listen again")
        after = send(cluster, 20)
        settle_clean(cluster, after)
        cluster.wait(lambda: client.llen(name) == 0, "the announcements are taken")


def count_failing(cluster: Cluster) -> int:
    """How often the API said that announcements begin to fail."""
    events = [str(line.get("event")) for line in cluster.members["web"].read_events()]
    return sum(event.startswith("announcements fail") for event in events)


def count_blocked(client: redis.Redis) -> int:
    return int(client.info("clients")["blocked_clients"])


@pytest.mark.long
def test_half_open(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """Connections that stand and say nothing: no request waits for long, nothing is stuck."""
    quiet = send(cluster, 40, rate_per_s=20)
    cluster.wait(lambda: quiet.done, "a quiet time ends")
    for link in cluster.links.values():
        link.redis.swallow()
    load = send(cluster, 200, rate_per_s=30)
    cluster.wait(lambda: load.done, "all are acknowledged without Redis")
    cluster.wait(lambda: cluster.count("SELECT count(*) FROM queue") == 0, "work flows without Redis")
    held = sum(link.redis.held_bytes for link in cluster.links.values())
    assert held > 0, "nobody spoke to Redis: the fault did not bite"
    assert load.tally.statuses.keys() == {202}
    # One request in a while waits half a second for Redis; the rest is for a busy machine.
    assert load.percentile(0.9) < 10
    for link in cluster.links.values():
        link.redis.mend()
    settle_clean(cluster, quiet, load)
    expect_listeners(cluster, send, settle_clean)


def test_full(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """`maxmemory` reached: nothing can be announced, and everything is taken and done."""
    failing_before = count_failing(cluster)
    with open_redis(cluster) as client:
        client.set("ballast", "x" * 2_000_000)
        client.config_set("maxmemory", "1mb")
        try:
            load = send(cluster, 150, rate_per_s=50)
            cluster.wait(lambda: load.done, "all are acknowledged")
            cluster.wait(lambda: cluster.count("SELECT count(*) FROM queue") == 0, "work flows")
            refused = int(client.info("errorstats").get("errorstat_OOM", {}).get("count", 0))
        finally:
            client.config_set("maxmemory", "256mb")
            client.delete("ballast")
    assert refused > 0, "Redis refused nothing: the fault did not bite"
    assert count_failing(cluster) > failing_before, "no announcement failed"
    assert load.tally.statuses.keys() == {202}
    settle_clean(cluster, load)


def test_absent_at_the_start(make_cluster: Callable[..., Cluster], send: Any, settle_clean: Any) -> None:
    """Everything starts without Redis, works, and is whole once Redis is there."""
    cluster = make_cluster()
    for name in ("web", "beat", "cpu-0", "model-0"):
        for proxy in (cluster.link(name).redis,):
            proxy.cut()
    cluster.start(models=1, slots=8)
    caller = Caller(cluster.url, cluster.api_key)
    load = send(cluster, 40)
    cluster.wait(lambda: cluster.count("SELECT count(*) FROM results") == 40, "work flows")
    answer = caller.ask("GET", "/readyz")
    assert (answer.status, answer.body["status"]) == (200, "degraded")
    for link in cluster.links.values():
        link.mend()
    cluster.wait(lambda: caller.ask("GET", "/readyz").body.get("status") == "ready", "all are whole")
    with open_redis(cluster) as client:
        cluster.wait(lambda: count_blocked(client) >= 2, "the workers listen")
    settle_clean(cluster, load)
    assert [member.ends for member in cluster.members.values()] == [[]] * 4


def test_messages_that_nobody_meant(cluster: Cluster, send: Any, settle_clean: Any, tmp_path: Path) -> None:
    """A pickle, an unknown task and forged ids in the workers' queue: not executed, said, and work goes on."""
    trap = tmp_path / "executed"
    app = make_celery(cluster.settings, "test")
    queue = queue_for(MODEL, JobClass.NORMAL)
    app.send_task("batchinfer.infer", args=[Trap(str(trap))], queue=queue, serializer="pickle", retry=False)
    app.send_task("os.system", args=[f"touch {trap}"], queue=queue, retry=False)
    for arguments in ([["no id"]], [], [[{"id": 1}]], [["0" * 32]]):
        app.send_task("batchinfer.infer", args=arguments, queue=queue, retry=False)
    pids = {name: member.pid for name, member in cluster.members.items()}
    with open_redis(cluster) as client:
        cluster.wait(lambda: client.llen(queue.name) == 0, "the messages are taken")
    load = send(cluster, 40)
    settle_clean(cluster, load)
    assert list_states(cluster, load.ids()) == {"succeeded": 40}
    assert not trap.exists()
    assert {name: member.pid for name, member in cluster.members.items()} == pids
    events = [line for n in (0, 1) for line in cluster.members[f"model-{n}"].read_events()]
    refused = {line["reason"] for line in events if line.get("event") == "a message was refused"}
    assert {"unknown task", "not allowed"} <= refused, "they were not met, or not counted"
    app.close()


class Trap:
    """Touches a file where somebody unpickles it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)
