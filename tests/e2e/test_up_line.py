"""The straight line on one machine with the fake engine, and each of its processes killed under it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from batchinfer.stack.orphans import process_runs

if TYPE_CHECKING:
    from collections.abc import Callable

JOBS = 40


def _query(up: Any, statement: str) -> list[tuple[Any, ...]]:
    url = json.loads((up.home / "servers.json").read_text())["database_url"]
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        return connection.execute(statement.encode()).fetchall()


def test_a_job_goes_all_the_way(fake_up: Any) -> None:
    with fake_up.client() as client:
        job = fake_up.submit(client, "Say which request this is.")
        ended = fake_up.wait_ended(client, job["id"])
        assert ended["status"] == "succeeded", ended
        assert ended["attempts"] == 1
        assert ended["result"]["engine"] == "fake"
        models = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["docreader"]


def test_everything_that_the_ready_file_names_runs(fake_up: Any) -> None:
    facts = fake_up.facts
    assert set(facts["pids"]) == {"postgres", "redis", "web", "beat", "cpu", "model"}
    assert all(len(pids) >= 1 for pids in facts["pids"].values())
    assert all(process_runs(pid) for pid in fake_up.pids())
    assert fake_up.ready_file.stat().st_mode & 0o777 == 0o600
    assert facts["api_key"] in fake_up.said
    assert facts["url"] in fake_up.said
    logs = {path.name for path in (fake_up.home / "logs").iterdir()}
    assert {"postgres.log", "valkey.log", "web.log", "beat.log", "cpu0.log", "model0.log"} <= logs


def test_no_secret_is_on_a_command_line_or_in_a_log(fake_up: Any) -> None:
    servers = json.loads((fake_up.home / "servers.json").read_text())
    secrets = [url.split("@")[0].rpartition(":")[2] for url in servers.values() if "@" in url]
    assert len(secrets) == 2
    secrets += [fake_up.facts["api_key"], (fake_up.home / "secret-key").read_text().strip()]
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in fake_up.pids()]
    logs = [path.read_text(errors="replace") for path in (fake_up.home / "logs").iterdir()]
    for secret in secrets:
        assert len(secret) > 20
        assert not [text for text in lines + logs if secret in text]


def test_a_killed_model_worker_loses_nothing(fake_up: Any, patience: Callable[..., None]) -> None:
    killed = fake_up.pids("model")[0]
    lost = 0
    with fake_up.client() as client:
        jobs = [fake_up.submit(client, f"[[steps:4000]] number {n}", max_tokens=4000) for n in range(JOBS)]
        patience(lambda: _query(fake_up, "SELECT count(*) FROM queue WHERE state = 'running'")[0][0] > 0)
        os.kill(killed, signal.SIGKILL)
        # The lease time is an hour: only the supervisor can have ended this lease.
        patience(lambda: (killed, True) in _query(fake_up, "SELECT pid, dead FROM leases"))
        ended = [fake_up.wait_ended(client, job["id"]) for job in jobs]
        lost = _query(fake_up, "SELECT count(*) FROM attempts WHERE outcome <> 'succeeded'")[0][0]
    assert [job["status"] for job in ended] == ["succeeded"] * JOBS
    assert lost > 0, "the kill came too late to bite"
    results = _query(fake_up, "SELECT count(*), count(DISTINCT job_id) FROM results")[0]
    jobs_done = _query(fake_up, "SELECT count(*) FROM jobs WHERE final_state = 'succeeded'")[0][0]
    assert results == (jobs_done, jobs_done)
    # The new process may have answered all before the ready-file names it.
    patience(lambda: killed not in fake_up.pids("model") and len(fake_up.pids("model")) == 1)
    assert "model0" in fake_up.said
    assert "killed by signal 9" in fake_up.said


@pytest.mark.parametrize("role", ["web", "beat", "cpu", "redis", "postgres"])
def test_each_process_is_replaced(fake_up: Any, patience: Callable[..., None], role: str) -> None:
    killed = fake_up.pids(role)[0]
    os.kill(killed, signal.SIGKILL)
    patience(lambda: killed not in fake_up.pids(role) and len(fake_up.pids(role)) == 1)

    def works() -> bool:
        try:
            with fake_up.client() as client:
                job = fake_up.submit(client, f"after {role}")
                return bool(fake_up.wait_ended(client, job["id"])["status"] == "succeeded")
        except (httpx.HTTPError, AssertionError):
            return False

    patience(works)


def test_a_second_up_on_this_home_is_refused(fake_up: Any, start_up: Callable[..., Any]) -> None:
    command = [sys.executable, "-m", "batchinfer.cli", "up", "--home", str(fake_up.home)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert str(fake_up.process.pid) in run.stderr
    assert "--home" in run.stderr
    assert fake_up.process.poll() is None


def test_a_key_can_be_made_from_another_shell(fake_up: Any) -> None:
    command = [
        sys.executable,
        "-m",
        "batchinfer.cli",
        "keys",
        "create",
        "--home",
        str(fake_up.home),
        "--scope",
        "read",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    headers = {"Authorization": f"Bearer {run.stdout.strip()}"}
    with httpx.Client(base_url=fake_up.facts["url"], headers=headers, trust_env=False) as client:
        assert client.get("/v1/jobs").status_code == httpx.codes.OK
        refused = client.post("/v1/jobs", json={"model": "docreader", "messages": []})
        assert refused.status_code in {httpx.codes.FORBIDDEN, httpx.codes.BAD_REQUEST}


def test_a_taken_port_is_said(tmp_path: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "batchinfer.cli",
            "up",
            "--home",
            str(tmp_path / "h"),
            "--port",
            str(port),
        ]
        run = subprocess.run([*command, "--engine", "fake"], capture_output=True, text=True, timeout=240)
    assert run.returncode == 1
    assert f"Port {port} is taken" in run.stderr
    assert run.stderr.count("\n") == 1
