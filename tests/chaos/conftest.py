"""Servers that may be crashed, and a whole service on them that is healthy at the beginning of each test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from bench.chaos import ledger
from bench.chaos.cluster import Cluster
from bench.chaos.load import Load
from bench.chaos.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

#: `make chaos` runs everything at full length; without it the same faults are fewer and shorter.
FULL = os.environ.get("CHAOS_FULL") == "1"
ENGINE = '{"allow_faults": true, "steps_per_s": 100}'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/chaos/" in item.path.as_posix():
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether the faults come in full number and length."""
    return FULL


@pytest.fixture(scope="session")
def chaos_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Postgres and Valkey that no other test uses."""
    servers = Servers(tmp_path_factory.mktemp("chaos-servers"))
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


@pytest.fixture(scope="session")
def shared_cluster(chaos_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Web, beat, a CPU worker and two model workers of 16 slots at 100 steps a second."""
    cluster = Cluster(tmp_path_factory.mktemp("chaos"), chaos_servers)
    try:
        cluster.start(models=2, slots=16, options=ENGINE)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """The shared one, mended."""
    shared_cluster.heal()
    return shared_cluster


@pytest.fixture
def make_cluster(chaos_servers: Servers, tmp_path: Any) -> Iterator[Callable[..., Cluster]]:
    """Clusters of a test's own, with other settings; nothing is started yet."""
    made: list[Cluster] = []

    def make(**changes: Any) -> Cluster:
        chaos_servers.revive()
        made.append(Cluster(tmp_path / f"cluster-{len(made)}", chaos_servers, **changes))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def send() -> Iterator[Callable[..., Load]]:
    """Begin a load on a cluster; it is stopped with the test."""
    loads: list[Load] = []

    def begin(cluster: Cluster, total: int, **options: Any) -> Load:
        loads.append(Load(cluster.url, cluster.api_key, total, **options).start())
        return loads[-1]

    yield begin
    for load in loads:
        load.stop()


@pytest.fixture
def settle_clean() -> Callable[..., ledger.Verdict]:
    """Wait until all has ended, and hold the ledger clean."""

    def settle(cluster: Cluster, *loads: Load, timeout_s: float = 120.0) -> ledger.Verdict:
        ledger.settle(cluster, loads, timeout_s)
        verdict = ledger.check(cluster, loads)
        assert verdict.problems == []
        return verdict

    return settle
