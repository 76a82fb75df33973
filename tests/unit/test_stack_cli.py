"""The command line: what goes wrong is one line with the remedy and an exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batchinfer import __version__

if TYPE_CHECKING:
    from pathlib import Path


def _run(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "batchinfer.cli", *arguments]
    env = {**os.environ, "BATCHINFER_HOME": str(tmp_path / "home"), **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def test_version(tmp_path: Path) -> None:
    assert _run(tmp_path, "--version").stdout.strip() == f"batchinfer {__version__}"


def test_settings_say_where_they_come_from_and_keep_secrets(tmp_path: Path) -> None:
    run = _run(tmp_path, "settings", BATCHINFER_DATABASE_URL="postgresql://u:geheim@h/d", BATCHINFER_POLL_S="2.5")
    assert run.returncode == 0
    rows = {line.split()[0]: line.split()[1:] for line in run.stdout.splitlines()}
    assert rows["BATCHINFER_POLL_S"] == ["2.5", "1.0", "environment"]
    assert rows["BATCHINFER_REAP_S"] == ["5.0", "5.0", "default"]
    assert rows["BATCHINFER_DATABASE_URL"] == ["set", "unset", "environment"]
    assert "geheim" not in run.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "words"),
    [
        (["up"], {"BATCHINFER_PORT": "many"}, 2, "BATCHINFER_PORT"),
        (
            ["up"],
            {"BATCHINFER_DATABASE_URL": "mysql://x", "BATCHINFER_REDIS_URL": "redis://x"},
            2,
            "DATABASE_URL",
        ),
        (
            ["up", "--engine", "fake"],
            {
                "BATCHINFER_DATABASE_URL": "postgresql://u:p@127.0.0.1:9/d",
                "BATCHINFER_REDIS_URL": "redis://127.0.0.1:9",
            },
            1,
            "BATCHINFER_DATABASE_URL",
        ),
        (["up", "--cpu-workers", "none"], {}, 2, "--cpu-workers"),
        (["up", "--model", "nowhere"], {}, 1, "no model nowhere"),
        (["keys", "create"], {}, 1, "batchinfer up"),
        (["migrate"], {}, 1, "batchinfer up"),
        (["unknown"], {}, 2, "unknown"),
    ],
)
def test_one_line_and_a_status(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], status: int, words: str
) -> None:
    run = _run(tmp_path, *arguments, **environment)
    assert run.returncode == status, run.stderr
    assert words in run.stderr
    assert "Traceback" not in run.stderr + run.stdout
