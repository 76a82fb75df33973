"""A backup taken of a service that runs, and restored beside it: by the command line alone, as an operator does it."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import COMMAND

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run_verb(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words],
        env={**os.environ, "BATCHINFER_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_service_comes_back_from_its_backup(start_up: Callable[..., Any], tmp_path: Path) -> None:
    home, again, kept = tmp_path / "home", tmp_path / "again", tmp_path / "kept"
    first = start_up(home, "--engine", "fake").wait_ready()
    with first.client() as client:
        answered = first.wait_ended(client, first.submit(client, "before the backup")["id"])
        headers = dict(client.headers)
    made = run_verb(home, "backup", str(kept))
    assert made.returncode == 0, made.stdout + made.stderr
    checked = run_verb(home, "backup", "--check", str(kept))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "whole" in checked.stdout
    assert first.stop() == 0

    restored = run_verb(again, "restore", str(kept))
    assert restored.returncode == 0, restored.stdout + restored.stderr
    twice = run_verb(again, "restore", str(kept))
    assert twice.returncode == 1
    assert "a restore overwrites nothing" in twice.stderr + twice.stdout

    second = start_up(again, "--engine", "fake").wait_ready()
    with second.client() as client:
        client.headers["Authorization"] = headers["authorization"]  # the key of before
        found = client.get(f"/v1/jobs/{answered['id']}").json()
        assert (found["status"], found["result"]) == ("succeeded", answered["result"])
        assert second.wait_ended(client, second.submit(client, "after the restore")["id"])["status"] == "succeeded"
    assert second.stop() == 0
