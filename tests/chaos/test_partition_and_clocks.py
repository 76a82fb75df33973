"""A worker cut off from Postgres by a network that is down, and clocks that jump."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from bench.chaos.calls import Caller, text_body
from bench.chaos.clock import Clock, find_reason_against_clocks
from bench.chaos.cluster import Cluster
from bench.chaos.ledger import list_states
from bench.chaos.network import Island, find_reason_against_networks
from bench.chaos.servers import Servers

if TYPE_CHECKING:
    from pathlib import Path

SLOTS = 16
ENGINE = '{"steps_per_s": 100}'
HELD = """SELECT count(*) FROM queue q JOIN leases l ON l.id = q.lease_id
    WHERE q.state = 'running' AND l.worker = 'far@here' AND NOT l.dead"""


def slow_job(number: int, key: str) -> dict[str, Any]:
    return text_body(f"[[steps:80]] {key}", key)


@pytest.mark.long
def test_network_cut(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """A worker in a network namespace whose only cable is pulled for three times the lease's time."""
    if reason := find_reason_against_networks():
        pytest.skip(reason)
    fenced = "results fenced out: cancelled, expired or taken over"
    with Island() as island:
        far = cluster.start_model("far", slots=SLOTS, options=ENGINE, prefix=island.prefix, link_host=island.host)
        try:
            cluster.wait_ready()
            load = send(cluster, 600, rate_per_s=120, make=slow_job)
            cluster.wait(lambda: cluster.count(HELD) >= SLOTS // 2, "the far worker is at work")
            island.pull()
            pulled_at = time.monotonic()
            cluster.wait(lambda: cluster.count(HELD) == 0, "its lease runs out")
            assert time.monotonic() - pulled_at < cluster.settings.lease_ttl_s + 60
            cluster.rest(3 * cluster.settings.lease_ttl_s - (time.monotonic() - pulled_at))
            claimed_late = """SELECT count(*) FROM attempts a JOIN leases l ON l.id = a.lease_id
                WHERE l.worker = 'far@here' AND a.started_at > l.ended_at"""
            assert cluster.count(claimed_late) == 0
            cluster.wait(lambda: load.done, "all is acknowledged")
            cluster.wait(lambda: cluster.count("SELECT count(*) FROM queue") == 0, "the others finish")
            island.plug()
            cluster.wait_ready()
            events = [line["event"] for line in far.read_events()]
            assert "the lease was taken for dead; its work is dropped" in events
            settle_clean(cluster, load)
            assert list_states(cluster, load.ids()) == {"succeeded": load.total}
            print("late results refused:", cluster.count_events(fenced, "fenced"))
            after = send(cluster, 100, rate_per_s=100)
            settle_clean(cluster, after)
        finally:
            cluster.remove("far")


def test_late_writes_are_refused(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """What a worker sent before it was cut off arrives after its lease has ended: refused, row by row."""
    fenced = "results fenced out: cancelled, expired or taken over"
    before = cluster.count_events(fenced, "fenced")
    load = send(cluster, 20_000, rate_per_s=200, threads=6)  # more than there is time for: it is stopped below
    for _ in range(8):
        cluster.rest(1.0)
        link = cluster.links["model-1"]
        link.database.swallow()
        cluster.rest(2.5 * cluster.settings.lease_ttl_s)
        link.database.mend()
        cluster.wait_ready()
        cluster.rest(0.5)
        if cluster.count_events(fenced, "fenced") > before:
            break
    load.total = 0
    settle_clean(cluster, load)
    assert list_states(cluster, load.ids()) == {"succeeded": len(load.acks)}
    assert cluster.count_events(fenced, "fenced") > before, "nothing arrived late: the fault did not bite"


@pytest.fixture
def clocked(tmp_path: Path) -> Any:
    """A cluster in which every process, Postgres too, has a wall clock of its own."""
    if reason := find_reason_against_clocks():
        pytest.skip(reason)
    database_clock, worker_clock = Clock(tmp_path / "database"), Clock(tmp_path / "worker")
    servers = Servers(tmp_path / "servers", environment=database_clock.environment)
    cluster = None
    try:
        servers.start()
        cluster = Cluster(tmp_path / "cluster", servers, lease_ttl_s=15.0)  # none ends because the machine is busy
        cluster.start_web(environment=worker_clock.environment)
        cluster.start_beat()
        cluster.start_model("model-0", slots=SLOTS, options=ENGINE, environment=worker_clock.environment)
        cluster.start_model("model-1", slots=SLOTS, options=ENGINE)
        cluster.wait_ready()
        yield cluster, worker_clock, database_clock
    finally:
        if cluster is not None:
            cluster.close()
        servers.stop()


def test_clock_of_a_worker_jumps(clocked: Any, send: Any, settle_clean: Any) -> None:
    """The host of a worker and of the API, an hour ahead and an hour behind: no lease ends early, no deadline moves,
    no job hangs."""
    cluster, worker_clock, _ = clocked
    load = send(cluster, 400, rate_per_s=50, make=lambda _, key: text_body(f"{key}", key, expires_in=300))
    for offset_s in (3600, -3600, 0):
        worker_clock.set(offset_s)
        cluster.rest(2.0)
    settle_clean(cluster, load)
    assert worker_clock.was_read(), "nobody read that clock: the fault did not bite"
    assert list_states(cluster, load.ids()) == {"succeeded": load.total}
    assert cluster.count("SELECT count(*) FROM leases WHERE dead") == 0
    assert cluster.count("SELECT count(*) FROM attempts WHERE outcome <> 'succeeded'") == 0
    assert sorted(page_through(cluster)) == sorted(load.ids())


@pytest.mark.long
def test_clock_of_the_database_is_set_back(clocked: Any, send: Any, settle_clean: Any) -> None:
    """Ten minutes back under load: what waits is not kept waiting until the old time comes again, a killed worker is
    noticed, and a list of jobs can be paged through without a gap."""
    cluster, _, database_clock = clocked
    load = send(cluster, 300, rate_per_s=50)
    cluster.wait(lambda: len(load.acks) > 100, "some are acknowledged")
    before = cluster.count("SELECT extract(epoch FROM now())::int")
    database_clock.set(-600)
    assert cluster.count("SELECT extract(epoch FROM now())::int") < before - 500, "the fault did not bite"
    cluster.reporting = False
    cluster.kill("model-0")
    settle_clean(cluster, load)
    assert list_states(cluster, load.ids()) == {"succeeded": load.total}
    assert sorted(page_through(cluster)) == sorted(load.ids())


def page_through(cluster: Cluster) -> list[str]:
    """The ids of all jobs, as a client pages through them."""
    caller, seen = Caller(cluster.url, cluster.api_key), []
    while True:
        page = caller.ask("GET", "/v1/jobs?limit=50" + (f"&after={seen[-1]}" if seen else "")).body
        seen += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            return seen
