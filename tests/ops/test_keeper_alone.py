"""`batchinfer host --cpu-workers 0`, as the unit and the container of models run it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from batchinfer.stack import alive
from batchinfer.stack.programs import child_environment

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.services.context import Context

PATIENCE_S = 120.0


def test_a_keeper_without_cpu_workers_lives_and_ends_in_order(context: Context, tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-c", "from batchinfer.cli import main; main()"]
    command += ["host", "--cpu-workers", "0", "--ready-file", str(ready)]
    environment = child_environment(context.settings) | {"PATH": os.environ["PATH"]}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until = time.monotonic() + PATIENCE_S
        while not ready.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        lives = alive.find_trouble(context, "host") if ready.exists() else "it was never ready"
    finally:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert lives is None, said
    assert process.returncode == 0, said
    assert alive.find_trouble(context, "host") is not None
    assert not ready.exists()


@pytest.mark.parametrize(("verb", "least"), [("up", 1), ("host", 0)])
def test_how_many_cpu_workers_may_be_asked_for(verb: str, least: int) -> None:
    command = [sys.executable, "-c", "from batchinfer.cli import main; main()", verb, "--cpu-workers", str(least - 1)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert f"from {least} to 256" in " ".join(run.stderr.replace("│", " ").split())
