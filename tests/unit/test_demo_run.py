from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def start_demo(folder: Path, **options: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHINFER_")}
    environment |= {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", **options}
    command = [sys.executable, "-m", "batchinfer.demo"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def find_processes(folder: Path) -> list[str]:
    """Command lines that name the folder: whatever of the service still runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


def test_the_whole_run_with_a_killed_worker(tmp_path: Path) -> None:
    with start_demo(tmp_path) as demo:
        said, _ = demo.communicate(timeout=500)
    assert demo.returncode == 0, said
    assert "Killed the model worker" in said
    assert "in its hands: given back" in said
    assert "each once, lost 0, twice 0" in said
    assert find_processes(tmp_path) == []
    results = next(tmp_path.glob("batchinfer-demo-*/results.jsonl"))
    assert len(results.read_text().splitlines()) > 24


def test_an_interrupted_run_leaves_nothing_running(tmp_path: Path) -> None:
    # Where the tests run in a shell's background, Ctrl-C is ignored, and that would be inherited.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        started = start_demo(tmp_path, CALM="1")
    finally:
        signal.signal(signal.SIGINT, before)
    with started as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "Ready in" in line:
                break
        demo.send_signal(signal.SIGINT)
        said, _ = demo.communicate(timeout=120)
    assert demo.returncode == 130, said
    assert find_processes(tmp_path) == []
