"""`batchinfer models verify`: the self-test by name or folder, from the control plane's command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchinfer.services.models import register_model

if TYPE_CHECKING:
    from batchinfer.services.context import Context
    from batchinfer.settings import Settings

DOCREADER = Path("workers/models/docreader").absolute()


def verify(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The verb in a process of its own, as a user runs it."""
    servers = {
        "BATCHINFER_HOME": str(settings.home),
        "BATCHINFER_DATABASE_URL": settings.require_database_url(),
        "BATCHINFER_REDIS_URL": settings.require_redis_url(),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "batchinfer.cli", "models", "verify", *arguments]
    return subprocess.run(command, env={**os.environ, **servers}, capture_output=True, text=True, timeout=300)


def test_a_name_that_only_the_database_knows_is_verified(settings: Settings, context: Context) -> None:
    register_model(context, "invoices-1", str(DOCREADER), "r1")
    run = verify(settings, "invoices-1", "--json")
    assert run.returncode == 0, run.stderr
    [line] = run.stdout.splitlines()
    verdict = json.loads(line)
    assert {"engine", "exact", "of", "features", "reasons"} <= verdict.keys()
    assert (verdict["engine"], verdict["exact"]) == ("transformers", verdict["of"])
    assert verdict["features"]["grouped_prefill"] is True


@pytest.mark.long
def test_a_folder_that_cannot_be_loaded_says_why_and_ends_with_1(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    for path in DOCREADER.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    run = verify(settings, str(folder))
    *_, last = run.stdout.splitlines()
    assert run.returncode == 1
    assert json.loads(last)["engine"] is None
    assert "half" in run.stdout
    assert "Traceback" not in run.stdout + run.stderr
    assert str(tmp_path) not in run.stdout


def test_an_unknown_name_is_one_line(settings: Settings) -> None:
    run = verify(settings, "nowhere")
    assert (run.returncode, run.stdout) == (1, "")
    assert "no model nowhere" in run.stderr
