"""Prometheus's own tools over what is deployed, and Debian's Prometheus scraping a real run.

Skipped by name where they are not installed (Debian's package prometheus has both).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from batchinfer.stack.ports import free_ports
from tests.e2e.conftest import Up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
#: It hung; nothing here is a speed.
PATIENCE_S = 180.0


def find_tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return found


def promtool(*arguments: str, given: str | None = None) -> str:
    ended = subprocess.run(
        [find_tool("promtool"), *arguments], cwd=DEPLOY, input=given, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_the_configuration_and_the_rules_are_valid() -> None:
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")
    assert "SUCCESS" in promtool("check", "rules", "alerts.yml")


def test_the_alarms_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_what_is_named_is_where_compose_has_it() -> None:
    """By service and port; all in one network, and beat with no worker beside it that could take its port."""
    services = yaml.safe_load((DEPLOY.parents[1] / "compose.yaml").read_text())["services"]
    web, workers = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    ((told,),) = [one["targets"] for one in web["static_configs"]]
    (found,) = workers["http_sd_configs"]
    assert found["url"] == f"http://{told}/metrics/targets"
    name, _, port = told.partition(":")
    assert f"--bind=0.0.0.0:{port}" in services[name]["command"]
    (beat,) = workers["static_configs"]
    assert beat["labels"] == {"role": "beat"}
    (address,) = beat["targets"]
    other, _, port = address.partition(":")
    assert "workers.beat" in services[other]["command"]
    environment = services[other]["environment"]
    assert environment["BATCHINFER_METRICS_HOST"] == "0.0.0.0"  # noqa: S104 - of a network that leads nowhere else
    assert environment["BATCHINFER_METRICS_PORT"] == port
    for service in (name, other):
        assert set(services[service]["networks"]) & set(services["prometheus"]["networks"])


def wait_for(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.3)
    pytest.fail(f"not within {PATIENCE_S:.0f} s: {what}")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Up]:
    """`batchinfer up` with the fake engine, whose workers tell their metrics."""
    port = str(next(free_ports()) % 65000)
    up = Up(tmp_path / "home", "--engine", "fake", BATCHINFER_METRICS_PORT=port, BATCHINFER_METRICS_TOKEN="of-metrics")
    try:
        yield up.wait_ready()
    finally:
        up.stop()
        up.process.kill()
        up.process.wait()


def find_beat(run: Up) -> str:
    """Where beat tells its metrics, as docs/metrics.md says that one finds it."""
    lines = map(json.loads, (run.home / "logs" / "beat.log").read_text().splitlines())
    (address,) = [line["address"] for line in lines if line["event"] == "metrics are told"]
    return str(address)


@pytest.fixture
def prometheus(run: Up, tmp_path: Path) -> Iterator[httpx.Client]:
    """Prometheus with the deployed configuration, but for addresses and intervals."""
    program = find_tool("prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    address, secret = run.facts["url"].removeprefix("http://"), {"type": "Bearer", "credentials": "of-metrics"}
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    web, workers = config["scrape_configs"]
    web |= {"authorization": secret, "static_configs": [{"targets": [address]}]}
    (found,) = workers["http_sd_configs"]
    found |= {"url": found["url"].replace("web:8000", address), "refresh_interval": "1s", "authorization": secret}
    workers["authorization"] = secret
    (beat,) = workers["static_configs"]
    beat["targets"] = [find_beat(run)]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "alerts.yml", tmp_path)
    port = next(free_ports())
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.wait(60)


def query(client: httpx.Client, expression: str) -> list[tuple[dict[str, str], float]]:
    try:
        answer = client.get("/api/v1/query", params={"query": expression})
    except httpx.TransportError:
        return []
    if answer.status_code != 200:
        return []
    return [(row["metric"], float(row["value"][1])) for row in answer.json()["data"]["result"]]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_prometheus_scrapes_a_real_run(run: Up, prometheus: httpx.Client) -> None:
    with run.client() as client:
        jobs = [run.submit(client, f"question {number}") for number in range(5)]
        for job in jobs:
            assert run.wait_ended(client, job["id"])["status"] == "succeeded"
        page = httpx.get(f"{run.facts['url']}/metrics", headers={"Authorization": "Bearer of-metrics"}, trust_env=False)
        assert httpx.get(f"{run.facts['url']}/metrics", trust_env=False).status_code == 401
    assert page.status_code == 200
    promtool("check", "metrics", given=page.text)

    def ended() -> float:
        return sum(value for _, value in query(prometheus, 'batchinfer_jobs_ended_total{outcome="succeeded"}'))

    wait_for(lambda: ended() == 5, "five jobs in the web server's series")
    up = wait_for(lambda: query(prometheus, 'up{job="batchinfer-workers"} == 1'), "workers are found and scraped")
    assert {labels["role"] for labels, _ in up} <= {"model", "cpu", "beat"}
    assert wait_for(lambda: query(prometheus, 'batchinfer_ticks_total{role="beat",result="done"} > 0'), "beat's series")
    rows = wait_for(lambda: query(prometheus, "batchinfer_engine_ended_total"), "the engine's series")
    ((labels, number),) = rows
    assert labels["model"] == "docreader"
    assert number >= 5, "and what it was tried with before it served"
    assert wait_for(lambda: query(prometheus, 'batchinfer_worker_state{state="serving"} == 1'), "a worker serves")
    rules = prometheus.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
    assert len(rules) == len(yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"])
    assert not [rule for rule in rules if rule["health"] == "err"]
