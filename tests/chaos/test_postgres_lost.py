"""Postgres crashed, cut off during COMMIT, full and read-only: nothing acknowledged is lost, nothing done twice."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.errors import Unavailable
from batchinfer.store import session
from bench.chaos.calls import picture_body, text_body
from bench.chaos.cluster import Cluster
from bench.chaos.disk import find_reason_against_mounts, mounted
from bench.chaos.faults import TERMINATE, fill
from bench.chaos.ledger import list_states
from bench.chaos.proxy import Loss
from bench.chaos.servers import Servers

if TYPE_CHECKING:
    from pathlib import Path


def test_crashed_again_and_again(cluster: Cluster, send: Any, settle_clean: Any, full: bool) -> None:
    """Ended without a checkpoint every few seconds: 503 with Retry-After meanwhile, and never a 202 without a job."""
    load = send(cluster, 6000, rate_per_s=80, threads=6)
    for _ in range(8 if full else 3):
        cluster.rest(3.0)
        cluster.servers.postgres.crash()
        cluster.rest(2.0)
        cluster.servers.postgres.restart()
    load.total = 0  # enough was sent
    settle_clean(cluster, load)
    assert load.tally.statuses[503] > 0, "nobody met the crash: the fault did not bite"
    assert load.tally.statuses.keys() <= {0, 202, 409, 503}
    assert list_states(cluster, load.ids()) == {"succeeded": len(load.acks)}


@pytest.mark.long
def test_connections_ended_at_random(cluster: Cluster, send: Any, settle_clean: Any, full: bool) -> None:
    """pg_terminate_backend on everybody at random moments."""
    rng = random.Random(7)
    load = send(cluster, 1500 if full else 300, rate_per_s=80)
    ended = 0
    while not load.done:
        ended += cluster.count(TERMINATE)
        cluster.rest(rng.uniform(0.2, 1.2))
    settle_clean(cluster, load)
    assert ended > 10
    assert list_states(cluster, load.ids()) == {"succeeded": load.total}


def test_connections_cut_during_commit(cluster: Cluster, send: Any, settle_clean: Any, full: bool) -> None:
    """COMMITs that never arrive, and COMMITs whose answers never do: what took place is found out, not guessed."""
    rng = random.Random(8)
    landed_before = count_landed(cluster)
    load = send(cluster, 6000, rate_per_s=100, make=mixed, threads=6)
    marks = {"web": b"INSERT INTO queue", "model-0": b"INSERT INTO results", "model-1": b"INSERT INTO results"}
    for _ in range(60 if full else 15):
        for name, mark in marks.items():
            cluster.links[name].database.lose_commits([rng.choice([Loss.BEFORE, Loss.AFTER])], mark)
        cluster.rest(rng.uniform(0.3, 0.8))
    for name, mark in marks.items():
        cluster.links[name].database.lose_commits([Loss.AFTER], mark)
    cluster.wait(lambda: count_landed(cluster) > landed_before, "a commit without an answer is found to have landed")
    load.total = 0
    settle_clean(cluster, load)
    for name in marks:
        lost = cluster.links[name].database.lost
        assert lost[Loss.BEFORE] > 0, name
        assert lost[Loss.AFTER] > 0, name
    # The client whose 202 was lost sent the same key again, and got what its first request had made.
    assert load.tally.replays > 0
    states = list_states(cluster, load.ids())
    assert states == {"succeeded": len(load.acks)}


def count_landed(cluster: Cluster) -> int:
    return cluster.count_events("an unanswered commit had taken place", "rows")


def mixed(number: int, key: str) -> dict[str, Any]:
    make = picture_body if number % 20 == 0 else text_body
    return make(f"[[steps:5]] {key}", key)


@pytest.mark.long
def test_read_only(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """A standby without a primary: submissions are refused and sent again, work waits, nothing is lost."""
    load = send(cluster, 250, rate_per_s=60)
    name = cluster.sql("SELECT current_database()")[0][0]
    cluster.wait(lambda: len(load.acks) > 20, "some are acknowledged")
    cluster.sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    cluster.sql(TERMINATE)
    cluster.wait(lambda: load.tally.statuses[503] > 5, "submissions are refused")
    cluster.rest(2.0)
    cluster.servers.run(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    cluster.sql(TERMINATE)
    settle_clean(cluster, load)
    assert list_states(cluster, load.ids()) == {"succeeded": load.total}


def test_full_disk(tmp_path: Path, send: Any, settle_clean: Any) -> None:
    """No space for Postgres: submissions are refused with 503, and all that was acknowledged is there afterwards."""
    if reason := find_reason_against_mounts():
        pytest.skip(reason)
    with mounted(tmp_path / "disk", size="220m") as disk:
        servers = Servers(disk / "servers")
        cluster = None
        try:
            servers.start()
            cluster = Cluster(tmp_path / "cluster", servers)
            cluster.start(models=1, slots=16)
            load = send(cluster, 6000, rate_per_s=80, make=wordy)
            cluster.wait(lambda: len(load.acks) > 50, "some are acknowledged")
            fill(disk / "ballast")
            refused = load.tally.statuses[503]
            cluster.wait(lambda: load.tally.statuses[503] > refused + 5, "submissions are refused")
            acknowledged = len(load.acks)
            cluster.rest(3.0)
            (disk / "ballast").unlink()
            servers.revive()
            cluster.wait(lambda: len(load.acks) > acknowledged + 50, "submissions are taken again")
            load.total = 0
            settle_clean(cluster, load)
            assert load.tally.statuses.keys() <= {0, 202, 409, 503}
            assert list_states(cluster, load.ids()) == {"succeeded": len(load.acks)}
        finally:
            if cluster is not None:
                cluster.close()
            servers.stop()


def wordy(number: int, key: str) -> dict[str, Any]:
    noise = random.Random(key).randbytes(4000).hex()  # nothing that compresses
    return text_body(f"[[steps:5]] {key} {noise}", key)


@pytest.mark.long
def test_a_transaction_left_open(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """A session of the service that stops inside a transaction is ended by its time limit, and work goes on."""
    load = send(cluster, 300, rate_per_s=40)

    def stop_inside() -> None:
        with cluster.ctx.db.transaction() as tx:
            tx.execute(text("SELECT count(*) FROM queue"))
            cluster.wait(lambda: cluster.count(IDLE) > 0, "it is open")
            cluster.wait(lambda: cluster.count(IDLE) == 0, "it is ended", timeout_s=session.IDLE_TIMEOUT_S + 20)
            tx.execute(text("SELECT 1"))

    began = cluster.count("SELECT extract(epoch FROM now())::int")
    with pytest.raises(Unavailable):
        stop_inside()
    assert cluster.count("SELECT extract(epoch FROM now())::int") - began >= session.IDLE_TIMEOUT_S - 1
    settle_clean(cluster, load)
    assert list_states(cluster, load.ids()) == {"succeeded": load.total}


IDLE = """SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'chaos' AND state LIKE 'idle in transaction%%' AND datname = current_database()"""
