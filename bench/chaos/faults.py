"""The faults of the mix. Each is done by the main thread, lasts a moment, and answers a line on what it did."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.chaos.clock import Clock, find_reason_against_clocks
from bench.chaos.disk import find_reason_against_mounts
from bench.chaos.network import Island, find_reason_against_networks
from bench.chaos.proxy import Loss

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.chaos.cluster import Cluster

TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'batchinfer %%'"
#: A statement of the transactions whose COMMIT is cut, by role: submissions, results, claims, signs of life, ticks.
COMMITS = {
    "web": [b"INSERT INTO queue"],
    "model": [b"INSERT INTO results", b"INSERT INTO results", b"UPDATE queue", b"UPDATE leases"],
    "cpu": [b"UPDATE queue", b"UPDATE leases"],
    "beat": [b"ticks"],
}


@dataclass
class Stage:
    """What the faults work on. `far` is the worker behind the island's cable, `ballast` the file that fills the disk;
    None where this machine cannot have them."""

    cluster: Cluster
    rng: random.Random
    worker_clock: Clock | None = None
    island: Island | None = None
    ballast: Path | None = None

    def choose(self, *roles: str) -> str:
        """A process of these roles."""
        return self.rng.choice(sorted(m.name for m in self.cluster.members.values() if m.role in roles))


def kill(stage: Stage) -> str:
    """kill -9 of any process; whether its end is reported, as a supervisor would, or found out, is drawn too."""
    name = stage.choose("model", "model", "cpu", "web", "beat")
    stage.cluster.reporting = stage.rng.random() < 0.5
    stage.cluster.kill(name)
    stage.cluster.rest(1.0)
    stage.cluster.reporting = True
    return name


def freeze(stage: Stage) -> str:
    """SIGSTOP until the lease has run out, then SIGCONT."""
    name = stage.choose("model", "cpu", "beat")
    stage.cluster.members[name].send(signal.SIGSTOP)
    stage.cluster.rest(stage.cluster.settings.lease_ttl_s * stage.rng.uniform(0.5, 2.0))
    stage.cluster.members[name].send(signal.SIGCONT)
    return name


def terminate(stage: Stage) -> str:
    """SIGTERM: it drains, ends, and is started again."""
    name = stage.choose("model", "cpu", "web", "beat")
    stage.cluster.members[name].send(signal.SIGTERM)
    return name


def flush_redis(stage: Stage) -> str:
    """FLUSHALL."""
    stage.cluster.servers.flush()
    return ""


def kill_redis(stage: Stage) -> str:
    """kill -9 of Redis, back and empty after a while."""
    stage.cluster.servers.kill_valkey()
    stage.cluster.rest(stage.rng.uniform(0.5, 4.0))
    stage.cluster.servers.revive()
    return ""


def swallow_redis(stage: Stage) -> str:
    """Connections to Redis that stand and say nothing."""
    for link in stage.cluster.links.values():
        link.redis.swallow()
    stage.cluster.rest(stage.rng.uniform(1.0, 6.0))
    for link in stage.cluster.links.values():
        link.redis.mend()
    return ""


def crash_postgres(stage: Stage) -> str:
    """Ended without a checkpoint, and started again."""
    stage.cluster.servers.postgres.crash()
    stage.cluster.rest(stage.rng.uniform(0.0, 2.0))
    stage.cluster.servers.postgres.restart()
    return ""


def end_connections(stage: Stage) -> str:
    """pg_terminate_backend on everybody."""
    return f"{stage.cluster.count(TERMINATE)} connections"


def swallow_postgres(stage: Stage) -> str:
    """One process cut off from Postgres past its lease; what it sent meanwhile arrives late."""
    name = stage.choose("model", "cpu", "web")
    stage.cluster.links[name].database.swallow()
    stage.cluster.rest(stage.cluster.settings.lease_ttl_s * stage.rng.uniform(0.5, 2.0))
    stage.cluster.links[name].database.mend()
    return name


def lose_commits(stage: Stage) -> str:
    """Connections cut during COMMIT, before or after it took place."""
    proxies = {name: stage.cluster.links[name].database for name in sorted(stage.cluster.members)}
    before = sum(sum(proxy.lost.values()) for proxy in proxies.values())
    for name, proxy in proxies.items():
        losses = [stage.rng.choice(list(Loss)) for _ in range(stage.rng.randint(1, 4))]
        proxy.lose_commits(losses, stage.rng.choice(COMMITS[stage.cluster.members[name].role]))
    stage.cluster.rest(3.0)
    for proxy in proxies.values():
        proxy.lose_commits([])
    return f"{sum(sum(proxy.lost.values()) for proxy in proxies.values()) - before} commits"


def fill_disk(stage: Stage) -> str:
    """Postgres' disk full to the last byte, for a while."""
    assert stage.ballast is not None
    fill(stage.ballast)
    stage.cluster.rest(stage.rng.uniform(1.0, 4.0))
    stage.ballast.unlink()
    stage.cluster.servers.revive()
    return ""


def jump_clock(stage: Stage) -> str:
    """The wall clock of the host of a worker and of the API jumps by up to an hour either way."""
    assert stage.worker_clock is not None
    offset_s = stage.rng.randint(-3600, 3600)
    stage.worker_clock.set(offset_s)
    return f"{offset_s:+} s"


def pull_cable(stage: Stage) -> str:
    """The network of a worker is down past its lease."""
    assert stage.island is not None
    stage.island.pull()
    stage.cluster.rest(stage.cluster.settings.lease_ttl_s * stage.rng.uniform(1.0, 2.5))
    stage.island.plug()
    return "far"


FAULTS: dict[str, Callable[[Stage], str]] = {
    "kill -9": kill,
    "SIGSTOP": freeze,
    "SIGTERM": terminate,
    "FLUSHALL": flush_redis,
    "Redis killed": kill_redis,
    "Redis blackholed": swallow_redis,
    "Postgres crashed": crash_postgres,
    "connections ended": end_connections,
    "connection blackholed": swallow_postgres,
    "cut during COMMIT": lose_commits,
    "disk full": fill_disk,
    "clock jumps": jump_clock,
    "network cut": pull_cable,
}
NEEDS: dict[str, Callable[[], str | None]] = {
    "disk full": find_reason_against_mounts,
    "clock jumps": find_reason_against_clocks,
    "network cut": find_reason_against_networks,
}


def fill(ballast: Path) -> None:
    """Take all space that is left on the disk of that file, to the last byte."""
    with ballast.open("ab", buffering=0) as file:
        for size in (2**20, 4096, 512):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def list_possible() -> tuple[list[str], dict[str, str]]:
    """The faults that this machine can have, and why it cannot have the others. Main thread."""
    reasons = {name: reason for name, find in NEEDS.items() if (reason := find())}
    return [name for name in FAULTS if name not in reasons], reasons


def draw_plan(seed: int, count: int, possible: list[str]) -> list[str]:
    """The faults in order: each kind in turn in an order drawn anew, so that none is missing from a long plan."""
    rng = random.Random(f"plan {seed}")
    plan: list[str] = []
    while len(plan) < count:
        plan += rng.sample(possible, len(possible))
    return plan[:count]
