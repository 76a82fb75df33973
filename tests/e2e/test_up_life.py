"""How a run begins and ends: killed, stopped, on a full disk, as a plain user, on somebody else's servers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.stack.orphans import MARK, process_runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AS_NOBODY = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]


def _namespaces_work(*command: str) -> bool:
    return shutil.which("unshare") is not None and subprocess.run([*command, "true"]).returncode == 0


@pytest.mark.long
def test_killed_and_started_again(tmp_path: Path, start_up: Callable[..., Any], patience: Callable[..., None]) -> None:
    first = start_up(tmp_path / "home", "--engine", "fake").wait_ready()
    with first.client() as client:
        job = first.wait_ended(client, first.submit(client, "before the end")["id"])
    pids, key = first.pids(), first.facts["api_key"]
    first.process.kill()
    first.process.wait()
    patience(lambda: not first.left())
    patience(lambda: not any(process_runs(pid) for pid in pids))

    # A pid file that names a living process, as after a reboot.
    (tmp_path / "home" / "pg" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    # And a process that has outlived the run in spite of all.
    with subprocess.Popen(["/bin/sleep", "1000"], env={MARK: str(tmp_path / "home")}) as orphan:
        second = start_up(tmp_path / "home", "--engine", "fake").wait_ready()
        assert orphan.wait(60) == -signal.SIGTERM
    assert "Ended 1 processes that an earlier run left behind" in second.said
    assert second.facts["api_key"] == key
    with second.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}").json() == job
        again = second.wait_ended(client, second.submit(client, "after the end")["id"])
        assert again["status"] == "succeeded"
    pids = second.pids()
    assert second.stop() == 0
    assert not any(process_runs(pid) for pid in pids)
    assert second.left() == set()
    assert not second.ready_file.exists()
    assert not (tmp_path / "home" / "servers.json").exists()


def test_stopped_while_starting(tmp_path: Path, start_up: Callable[..., Any], patience: Callable[..., None]) -> None:
    up = start_up(tmp_path / "home", "--engine", "fake")
    patience((tmp_path / "home" / "logs" / "model0.log").exists)
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(180) == 0
    assert up.left() == set()
    assert not up.ready_file.exists()


@pytest.mark.long
def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path: Path, start_up: Callable[..., Any]) -> None:
    broken = tmp_path / "broken-model"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    up = start_up(tmp_path / "home", "--model", str(broken))
    assert up.process.wait(240) == 1
    assert "The model broken-model cannot be loaded" in up.said
    assert str(tmp_path / "home" / "logs" / "model0.log") in up.said
    assert "Traceback" not in up.said
    assert up.left() == set()


@pytest.mark.long
@pytest.mark.skipif(not _namespaces_work(*AS_NOBODY), reason="user namespaces are refused here")
def test_as_a_plain_user_in_a_deep_home(tmp_path: Path, start_up: Callable[..., Any]) -> None:
    home = tmp_path / ("a-very-deep-folder-" * 8) / ("and-another-one-" * 6) / "home"
    command = [*(AS_NOBODY if os.geteuid() == 0 else []), sys.executable, "-m", "batchinfer.cli"]
    up = start_up(home, "--engine", "fake", command=command).wait_ready()
    assert "nobody" not in up.said
    with up.client() as client:
        assert up.wait_ended(client, up.submit(client, "as a plain user")["id"])["status"] == "succeeded"
    assert up.stop() == 0
    assert up.left() == set()


MOUNT = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.mark.skipif(not _namespaces_work(*MOUNT), reason="user namespaces are refused here")
def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    up = f"{sys.executable} -m batchinfer.cli up --home {tmp_path}/home"
    script = f"mount -t tmpfs -o size=8m none {tmp_path} && exec {up}"
    run = subprocess.run([*MOUNT, "sh", "-c", script], capture_output=True, text=True, timeout=240)
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "MiB free" in run.stderr
    assert "--home" in run.stderr


@pytest.mark.long
def test_on_servers_that_are_named(
    tmp_path: Path, database_url: str, redis_url: str, start_up: Callable[..., Any]
) -> None:
    addresses = {"BATCHINFER_DATABASE_URL": database_url, "BATCHINFER_REDIS_URL": redis_url}
    up = start_up(tmp_path / "home", "--engine", "fake", **addresses).wait_ready()
    assert up.pids("postgres") == up.pids("redis") == []
    assert not (tmp_path / "home" / "pg").exists()
    with up.client() as client:
        name = uuid.uuid4().hex
        assert name in up.wait_ended(client, up.submit(client, name)["id"])["result"]["text"]
    assert up.stop() == 0
