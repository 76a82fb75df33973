"""The whole stack over three network namespaces: control (this machine's own) and two workers, one of them cut off.

Each worker host has a keeper, a CPU worker and a model worker, which reach Postgres and Valkey over one cable. The
blob store is a folder of this machine that both hosts share, as a network file system would be.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

from batchinfer.observe.reading import Wanted, read_records
from batchinfer.services import models
from bench.chaos.calls import picture_body, text_body
from bench.chaos.cluster import MODEL
from bench.chaos.ledger import list_states
from bench.chaos.network import Island, find_reason_against_networks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.chaos.cluster import Cluster

HOSTS = ("east", "west")
TTL_S = 5.0
#: Of a host that starts, on a machine that does other things, too.
START_S = 240.0
_LIVE = "SELECT count(*) FROM leases WHERE role = %s AND NOT dead AND host = %s"
_HELD = "SELECT count(*) FROM queue q JOIN leases l ON l.id = q.lease_id WHERE q.state = 'running' AND l.host = %s"


def make_body(number: int, key: str) -> dict[str, Any]:
    """Slow ones, so that something is held when the cable is pulled; each third with a picture."""
    make = picture_body if number % 3 == 0 else text_body
    return make(f"[[steps:60]] {key}", key)


@pytest.fixture
def spread(make_cluster: Callable[..., Cluster]) -> Iterator[tuple[Cluster, dict[str, Island]]]:
    """Web and beat in control, a host in each of two islands, a model wanted on each."""
    if reason := find_reason_against_networks():
        pytest.skip(reason)
    cluster = make_cluster(lease_ttl_s=TTL_S)
    cluster.reporting = False
    cluster.start_web()
    cluster.start_beat()
    for name, device in zip(HOSTS, ("cpu", "auto"), strict=True):
        wanted = models.ensure_deployment(cluster.ctx, MODEL, engine="fake", device=device)
        change = "UPDATE deployments SET labels = %s, options = %s, slots = 16 WHERE id = %s"
        cluster.sql(change, Jsonb({"place": name}), Jsonb({"steps_per_s": 60}), wanted)
    with ExitStack() as ending:
        islands = {}
        for number, name in enumerate(HOSTS):
            islands[name] = ending.enter_context(Island(number))
            home = cluster.folder / f"{name}-home"
            home.mkdir()
            cluster.settings.blobs_dir.mkdir(parents=True, exist_ok=True)
            (home / "blobs").symlink_to(cluster.settings.blobs_dir)
            prefix, host = islands[name].prefix, islands[name].host
            cluster.start_host(name, prefix=prefix, link_host=host, host_labels=f"place={name}")
        for name in HOSTS:
            wait_at_work(cluster, name)
        yield cluster, islands
        for name in HOSTS:
            cluster.remove(name)


def wait_at_work(cluster: Cluster, host: str) -> None:
    """Until its CPU worker and its model worker hold leases."""

    def works() -> bool:
        return all(cluster.count(_LIVE, role, host) for role in ("cpu", "model"))

    try:
        cluster.wait(works, f"{host} is at work", START_S)
    except AssertionError:
        print("\n".join(record.text[:300] for record in read_logs(cluster, host)[-40:]))
        raise


def read_logs(cluster: Cluster, host: str) -> list[Any]:
    """The lines of all processes of a host."""
    return list(read_records(cluster.folder / f"{host}-home" / "logs", Wanted()))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_host_is_cut_off_and_healed(spread: Any, send: Any, settle_clean: Any) -> None:
    cluster, islands = spread
    load = send(cluster, 500, rate_per_s=25, make=make_body)
    for host in HOSTS:
        cluster.wait(lambda host=host: cluster.count(_HELD, host) >= 4, f"{host} has work")

    islands["east"].pull()
    pulled_at = time.monotonic()
    cut_off = cluster.sql("SELECT now()")[0][0]
    cluster.wait(lambda: not any(cluster.count(_LIVE, role, "east") for role in ("cpu", "model")), "its leases run out")
    cluster.rest(max(0.0, 3 * TTL_S - (time.monotonic() - pulled_at)))
    by_west = (
        "SELECT count(*) FROM results r JOIN leases l ON l.id = r.lease_id WHERE l.host = 'west' AND r.created_at > %s"
    )
    cluster.wait(lambda: cluster.count(by_west, cut_off) > 10, "the other host goes on")
    healed = cluster.sql("SELECT now()")[0][0]
    islands["east"].plug()

    wait_at_work(cluster, "east")
    settle_clean(cluster, load, timeout_s=400.0)
    assert list_states(cluster, load.ids()) == {"succeeded": load.total}

    taken_over = """SELECT count(*) FROM attempts a JOIN leases was ON was.id = a.lease_id
        JOIN results r ON r.job_id = a.job_id JOIN leases l ON l.id = r.lease_id
        WHERE a.outcome = 'lost' AND was.host = 'east' AND l.host = 'west'"""
    assert cluster.count(taken_over) > 0, "nothing was held when the cable was pulled: the fault did not bite"
    written_late = """SELECT count(*) FROM attempts a JOIN leases l ON l.id = a.lease_id
        WHERE l.host = 'east' AND l.opened_at < %s AND a.outcome = 'succeeded' AND a.finished_at > l.ended_at"""
    assert cluster.count(written_late, cut_off) == 0
    claimed_meanwhile = """SELECT count(*) FROM attempts a JOIN leases l ON l.id = a.lease_id
        WHERE l.host = 'east' AND a.started_at BETWEEN %s + make_interval(secs => 5) AND %s"""
    assert cluster.count(claimed_meanwhile, cut_off, healed) == 0
    events = {record.event for record in read_logs(cluster, "east")}
    late = {
        "the lease was taken for dead; its work is dropped",
        "results fenced out: cancelled, expired or taken over",
        "results dropped with their lease",
    }
    assert late & events, "what the host still had was refused or dropped, and its log says so"

    after = send(cluster, 150, rate_per_s=50, make=make_body)
    settle_clean(cluster, after, timeout_s=300.0)
    again = """SELECT count(*) FROM results r JOIN leases l ON l.id = r.lease_id
        WHERE l.host = 'east' AND r.created_at > %s AND l.opened_at > %s"""
    assert cluster.count(again, healed, cut_off) > 0, "the healed host works again"
