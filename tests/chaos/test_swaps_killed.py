"""Another revision takes over under load while its worker, the one that serves, or their host is killed."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchinfer.domain.deployments import parse_deployment
from batchinfer.domain.limits import Limits
from batchinfer.domain.swaps import parse_swap
from batchinfer.services import deployments, swapping
from batchinfer.store import revisions
from bench.chaos.calls import text_body
from bench.chaos.cluster import MODEL
from bench.chaos.ledger import list_states

if TYPE_CHECKING:
    from uuid import UUID

    from bench.chaos.cluster import Cluster

HOST = "one"
#: A load takes a while, so that a kill can meet it; an answer, so that what drains has something to do.
ENGINE = {"steps_per_s": 100, "read_s": 1.0}
#: Who is killed in a swap, and while the next revision is in which state.
BOTH = [("old", "loading"), ("next", "ready")]
KILLS = [
    [("next", "loading")],
    [("old", "loading")],
    [("next", "ready")],
    [("old", "ready")],
    [("host", "loading")],
    BOTH,
]
NEWEST = "SELECT id, state FROM replicas WHERE revision = %s ORDER BY id DESC LIMIT 1"
SWAP = """SELECT coalesce(d.revision, m.revision), d.next_revision, d.swap ->> 'state' FROM deployments d
    JOIN models m ON m.id = d.model_id"""


class Stage:
    """A deployment on a host of its own, swapped to and fro."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.host = cluster.start_host(HOST)
        with cluster.ctx.db.transaction() as tx:
            for revision in ("r1", "r2"):
                revisions.save_revision(tx, MODEL, revision, source={}, path=f"/nowhere/{revision}", state="fetched")
        spec = {"model": MODEL, "device": "cpu", "engine": "fake", "slots": 8, "options": ENGINE}
        standing, _ = deployments.launch(cluster.ctx, cluster.caller, parse_deployment(spec))
        self.id: UUID = standing.deployment.id
        self.wait_alone("r1")

    def wait_alone(self, revision: str) -> None:
        """Until one replica is there: it is ready, and of this revision."""
        left = "SELECT revision, state FROM replicas WHERE ended_at IS NULL"
        self.cluster.wait(lambda: self.cluster.sql(left) == [(revision, "ready")], f"{revision} alone is there")

    def read(self) -> tuple[Any, ...]:
        """The revision that serves, the next, and how the last swap stands."""
        return self.cluster.sql(SWAP)[0]

    def begin(self, revision: str) -> None:
        """Begin a swap."""
        body = {"revision": revision, "golden": [{"prompt": "[[steps:50]]", "expect": {"regex": "."}}]}
        request = parse_swap(body, Limits.of(self.cluster.settings))
        swapping.begin_swap(self.cluster.ctx, self.cluster.caller, self.id, request)

    def kill(self, victim: str, old: str, new: str, state: str) -> bool:
        """kill -9 of a revision's worker, or of the host with all that it started, once the next revision is in a
        state. False where that was over before anybody could see it."""
        before = state == "loading"

        def look() -> str:
            found = self.cluster.sql(NEWEST, new)
            now = found[0][1] if found else ""
            return now if now == state or (before and self.read()[1] is None) else ""

        if self.cluster.wait(look, f"the next one is {state}", pause_s=0.01) != state:
            return False
        if victim == "host":
            self.cluster.kill(HOST)
            self.host.wait()
            return True
        ((replica_id, _),) = self.cluster.sql(NEWEST, new if victim == "next" else old)
        try:
            os.kill(find_process(self.host.pid, replica_id), signal.SIGKILL)
        except ProcessLookupError:
            return False
        ended = "SELECT ended_at IS NOT NULL, error ->> 'message' FROM replicas WHERE id = %s"
        self.cluster.wait(lambda: self.cluster.sql(ended, replica_id)[0][0], "its end is known")
        message = self.cluster.sql(ended, replica_id)[0][1] or ""
        # What drained when it was killed has ended as it was told to.
        return "killed by signal 9" in message or (victim == "old" and state == "ready")


def find_process(parent: int, replica_id: UUID) -> int:
    """The process that a host started for a replica. Raises ProcessLookupError where it is gone."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with suppress(OSError):
            if str(replica_id).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    raise ProcessLookupError(replica_id)


def make_job(number: int, key: str) -> dict[str, Any]:
    return text_body(f"[[steps:20]] {key}", key, cache="off")


def test_a_swap_under_load_with_its_workers_killed(make_cluster: Any, send: Any, settle_clean: Any, full: bool) -> None:
    """The old revision goes on serving or the switch stands, and no job is lost, failed, or done by what its result
    does not name."""
    cluster = make_cluster(max_crashes=100)
    cluster.start_web()
    cluster.start_beat()
    stage = Stage(cluster)
    loads, bitten = [], []
    for kills in KILLS * 3 if full else [BOTH]:
        old = stage.read()[0]
        new = {"r1": "r2", "r2": "r1"}[old]
        loads.append(send(cluster, 100, make=make_job, rate_per_s=20))
        cluster.wait(lambda load=loads[-1]: len(load.acks) >= 10, "jobs flow")  # type: ignore[misc]
        stage.begin(new)
        bitten.append([stage.kill(victim, old, new, state) for victim, state in kills])
        cluster.wait(lambda: stage.read()[1] is None, "the swap has ended")
        serving, _, how = stage.read()
        assert (serving, how) in {(old, "failed"), (new, "switched")}
        # One that was killed before it took over never takes over; one that had is loaded again.
        if all(bitten[-1]) and kills != [("host", "loading")]:
            assert serving == (old if kills == [("next", "loading")] else new)
        stage.wait_alone(serving)
    assert sum(map(all, bitten)) > len(bitten) // 2, "most swaps were over before anybody could kill"
    last = send(cluster, 30, make=make_job)
    settle_clean(cluster, *loads, last, timeout_s=300)
    for load in [*loads, last]:
        assert list_states(cluster, load.ids()) == {"succeeded": load.total}
    assert {revision for (revision,) in cluster.sql("SELECT DISTINCT revision FROM results")} == {"r1", "r2"}
    of_whom = "SELECT count(*) FROM results r JOIN replicas p ON p.lease_id = r.lease_id AND p.revision = r.revision"
    assert cluster.count(of_whom) == cluster.count("SELECT count(*) FROM results"), "each names who answered it"
