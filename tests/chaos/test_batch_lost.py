"""A large batch whose workers are killed one after another, while its owner polls, pages through it and downloads."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from bench.chaos import ledger
from bench.chaos.cluster import MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.chaos.cluster import Cluster

TERMINAL = ("completed", "failed", "expired", "cancelled")
COUNTS = ("total", "completed", "failed")
CHUNK_LINES = 100


@pytest.fixture
def http(make_cluster: Callable[..., Cluster], full: bool) -> Iterator[tuple[Cluster, httpx.Client]]:
    """A cluster that takes 100,000 lines, and its client."""
    options = '{"allow_faults": true, "steps_per_s": 1000}' if full else '{"allow_faults": true, "steps_per_s": 60}'
    cluster = make_cluster(max_batch_lines=100_000).start(models=2, slots=128 if full else 16, options=options)
    headers = {"Authorization": f"Bearer {cluster.api_key}"}
    with httpx.Client(base_url=cluster.url, headers=headers, timeout=60, trust_env=False) as client:
        yield cluster, client


def list_names(number: int) -> list[str]:
    return [f"n{index}" for index in range(number)]


def send(client: httpx.Client, number: int) -> str:
    rows = [
        json.dumps(
            {"custom_id": name, "model": MODEL, "messages": [{"role": "user", "content": name}], "max_tokens": 6}
        )
        for name in list_names(number)
    ]
    pieces = (
        "".join(f"{row}\n" for row in rows[at : at + CHUNK_LINES]).encode() for at in range(0, number, CHUNK_LINES)
    )
    made = client.post("/v1/batches", content=pieces, headers={"Content-Type": "application/x-ndjson"})
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


class Owner:
    """Polls, and holds every answer against the one before."""

    def __init__(self, client: httpx.Client, batch_id: str) -> None:
        self.client, self.path = client, f"/v1/batches/{batch_id}"
        self.counts: tuple[int, ...] = (0,) * len(COUNTS)
        self.order: list[str] = []
        self.looks = 0

    def look(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(self.path).json()
        counts = tuple(found["request_counts"][name] for name in COUNTS)
        assert all(now >= before for now, before in zip(counts, self.counts, strict=True)), "a count went backwards"
        assert counts[1] + counts[2] <= counts[0]
        self.counts, self.looks = counts, self.looks + 1
        return found

    def page(self) -> None:
        """Read some items: whatever happens, the first ones stay the first ones in their order."""
        page = self.client.get(f"{self.path}/items?limit=100").json()
        lines = [item["line"] for item in page["data"]]
        assert lines == sorted(set(lines))
        names = [item["custom_id"] for item in page["data"]]
        assert names[: len(self.order)] == self.order, "an item changed its place"
        self.order = names

    def wait_for(self, cluster: Cluster, reached: Callable[[dict[str, Any]], bool], timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            cluster.look()
            found = self.look()
            self.page()
            if reached(found):
                return found
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout_s} s: the batch is at {self.counts}\n{cluster.tail_logs()}")


def test_a_batch_outlives_five_killed_workers(http: tuple[Cluster, httpx.Client], full: bool) -> None:
    cluster, client = http
    number, patience_s = (100_000, 1500.0) if full else (1200, 180.0)
    owner = Owner(client, send(client, number))
    cluster.wait(lambda: cluster.count("SELECT count(*) FROM jobs") > 0, "the first lines are jobs")
    cluster.kill("cpu-0")  # while it reads, or as it ends to
    for part, name in enumerate(("model-0", "model-1", "model-0", "cpu-0"), 1):
        owner.wait_for(
            cluster, lambda found, part=part: found["request_counts"]["completed"] >= number * part // 6, patience_s
        )
        cluster.kill(name)
    done = owner.wait_for(cluster, lambda found: found["status"] in TERMINAL, patience_s)
    assert cluster.count("SELECT count(*) FROM leases WHERE end_reason LIKE 'the process ended%%'") >= 5, (
        "all were killed"
    )
    assert cluster.count("SELECT count(*) FROM attempts WHERE outcome = 'lost'") > 0, "none of the kills bit"
    assert (done["status"], owner.counts) == ("completed", (number, number, 0))
    assert owner.looks > 20
    assert owner.order == list_names(number)[:100]
    with client.stream("GET", f"/v1/files/{done['output_file_id']}/content") as answer:
        names = [json.loads(line)["custom_id"] for line in answer.iter_lines()]
    assert names == list_names(number), "each once, in the order in which they came"
    ledger.settle(cluster, [])
    assert ledger.check(cluster, []).problems == []
