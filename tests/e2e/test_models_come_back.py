"""What is wanted is a row: whatever ends, `up` itself too, the models are ready again by themselves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from batchinfer.stack.orphans import process_runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def query(up: Any, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    url = json.loads((up.home / "servers.json").read_text())["database_url"]
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


def launch(up: Any, name: str, priority: int = 0) -> None:
    """Want another model beside the one of `up`, on the fake engine."""
    query(
        up,
        """
        WITH model AS (INSERT INTO models (id, tenant_id, name, revision, path)
            SELECT gen_random_uuid(), tenant_id, %s, 'r1', '' FROM models LIMIT 1 RETURNING id, tenant_id)
        INSERT INTO deployments (id, tenant_id, model_id, engine, device, priority)
        SELECT gen_random_uuid(), tenant_id, id, 'fake', 'cpu', %s FROM model
        """,
        name,
        priority,
    )


def list_ready(up: Any) -> list[str]:
    try:
        return [row[0] for row in query(up, "SELECT model FROM replicas WHERE state = 'ready' ORDER BY ready_at")]
    except (psycopg.Error, OSError, ValueError):
        return []


@pytest.mark.long
def test_all_models_come_back_after_all_was_killed(
    tmp_path: Path, start_up: Callable[..., Any], patience: Callable[..., None]
) -> None:
    first = start_up(tmp_path / "home", "--engine", "fake").wait_ready()
    launch(first, "beside")
    launch(first, "urgent", priority=5)
    patience(lambda: set(list_ready(first)) == {"docreader", "beside", "urgent"})
    pids = first.pids()
    first.process.kill()
    first.process.wait()
    patience(lambda: not any(process_runs(pid) for pid in pids))

    second = start_up(tmp_path / "home", "--engine", "fake").wait_ready()
    patience(lambda: set(list_ready(second)) == {"docreader", "beside", "urgent"})
    assert list_ready(second)[0] == "urgent"
    assert query(second, "SELECT sum(failures) FROM deployments") == [(0,)]
    assert query(second, "SELECT count(*) FROM replicas WHERE ended_at IS NULL") == [(3,)]
    with second.client() as client:
        messages = [{"role": "user", "content": "hello"}]
        job = client.post("/v1/jobs", json={"model": "beside", "messages": messages}).json()
        assert second.wait_ended(client, job["id"])["status"] == "succeeded"
    assert second.stop() == 0
    assert second.left() == set()


@pytest.mark.long
def test_another_model_takes_the_place_of_the_one_of_the_last_start_and_of_no_other(
    tmp_path: Path, start_up: Callable[..., Any], patience: Callable[..., None]
) -> None:
    first = start_up(tmp_path / "home", "--engine", "fake").wait_ready()
    launch(first, "beside")
    patience(lambda: set(list_ready(first)) == {"docreader", "beside"})
    assert first.stop() == 0
    second = start_up(tmp_path / "home", "--engine", "fake", "--model", "another").wait_ready()
    patience(lambda: set(list_ready(second)) == {"another", "beside"})
    states = dict(
        query(second, "SELECT m.name, d.stopped_at IS NULL FROM deployments d JOIN models m ON m.id = model_id")
    )
    assert states == {"docreader": False, "another": True, "beside": True}


class Host:
    """One run of `batchinfer host`."""

    def __init__(self, up: Any, home: Path, name: str) -> None:
        self.output = home.parent / f"{name}.log"
        servers = json.loads((up.home / "servers.json").read_text())
        environment = {
            **os.environ,
            "BATCHINFER_DATABASE_URL": servers["database_url"].replace("+psycopg", ""),
            "BATCHINFER_REDIS_URL": servers["redis_url"],
            "BATCHINFER_LEASE_TTL_S": "3",
            "BATCHINFER_HEARTBEAT_S": "0.5",
        }
        command = [sys.executable, "-m", "batchinfer.cli", "host", "--home", str(home), "--name", name,
                   "--cpu-workers", "1", "--label", "zone=far"]  # fmt: skip
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=home.parent
            )


@pytest.mark.long
def test_a_second_machine_holds_models_and_another_has_them_when_it_is_gone(
    tmp_path: Path, start_up: Callable[..., Any], patience: Callable[..., None]
) -> None:
    up = start_up(
        tmp_path / "home", "--engine", "fake", BATCHINFER_LEASE_TTL_S="3", BATCHINFER_HEARTBEAT_S="0.5"
    ).wait_ready()
    host = Host(up, tmp_path / "far-home", "far")
    try:
        patience(lambda: "The host far holds what is assigned to it" in host.output.read_text())
        query(up, "UPDATE deployments SET replicas = 2")
        ready = "SELECT host FROM replicas WHERE state = 'ready' ORDER BY host = 'far'"
        patience(lambda: query(up, ready) == [(socket.gethostname(),), ("far",)])
        assert query(up, "SELECT labels FROM hosts WHERE host = 'far'") == [({"zone": "far"},)]
        host.process.send_signal(signal.SIGKILL)
        host.process.wait()
        patience(lambda: query(up, ready) == [(socket.gethostname(),)] * 2)
    finally:
        host.process.kill()
        host.process.wait()
    assert up.stop() == 0


@pytest.mark.parametrize("words", [["--name", "no host"], ["--label", "zone"]])
def test_a_host_says_what_is_wrong_in_one_line(tmp_path: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "batchinfer.cli", "host", "--home", str(tmp_path / "home"), *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 2
    assert "BATCHINFER_HOST_" in run.stderr
    assert "Traceback" not in run.stderr
