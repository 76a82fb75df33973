"""The API's bench: goals are judged by what was measured, parts run on real servers and keep each other's figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from bench.api import report
from bench.api.web import read_cpu_s

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = {"cpu": "x", "cores_used": 2, "memory_gib": 4.0, "system": "s", "python": "3", "load_average": 0.5}


def found(share: float, cpu_ms: float, failed: int, queued: int) -> dict[str, Any]:
    """Figures of a run, as the parts give them."""
    service = {
        "pages": 10, "page_kb": 1000, "ceiling_per_s": 20.0, "pages_per_s": 20 * share, "share_of_ceiling": share,
        "submitted_per_s": 9.0, "opened_per_s": 5.0, "cpu_ms_a_page": {"web": cpu_ms, "CPU worker": 90.0},
        "cpu_ms_without_rendering": cpu_ms,
    }  # fmt: skip
    row = {
        "clients": 4, "probes": 9, "failed": failed, "p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0, "held": 4,
        "answered_at_once": 0,
    }  # fmt: skip
    waiting = {"threads": 16, "budget": 4, "seconds": 1.0, "rows": [row]}
    batch = {
        "lines": 100, "file_mib": 1.0, "queued": queued, "upload_s": 0.1, "seconds": 2.0, "lines_per_s": 50.0,
        "copy_s": 0.5, "of_copy": 4.0,
    }  # fmt: skip
    parts = {"service": service, "waiting": waiting, "batch": batch}
    return {name: {**part, "machine": MACHINE, "small": False} for name, part in parts.items()}


def test_a_goal_is_met_or_missed_by_its_own_figure() -> None:
    assert [met for *_, met in report.judge(found(0.97, 60.0, 0, 100))] == [True] * 4
    assert [met for *_, met in report.judge(found(0.969, 60.1, 1, 99))] == [False] * 4


def test_the_page_says_what_was_missed(tmp_path: Path) -> None:
    report.write(tmp_path, found(0.5, 10.0, 0, 100))
    page = (tmp_path / "api.md").read_text()
    assert (page.count("**missed**"), page.count("| met |")) == (1, 3)
    assert "CPU worker 90.0 ms" in page
    assert json.loads((tmp_path / "api.json").read_text())["batch"]["of_copy"] == 4.0


def test_the_cpu_of_a_process_holds_that_of_its_ended_children() -> None:
    before = read_cpu_s(os.getpid())
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert read_cpu_s(os.getpid()) - before >= 0.25
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        time.sleep(0.01)
        assert read_cpu_s(child.pid) < 60
        child.kill()


@pytest.mark.long
def test_every_part_runs_on_real_servers_and_keeps_the_others_figures(tmp_path: Path) -> None:
    for part in ("submission", "batch", "waiting", "service"):
        command = [sys.executable, "-m", "bench.api", "--small", "--parts", part, "--out", str(tmp_path)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert run.returncode == 0, run.stderr
    figures = json.loads((tmp_path / "api.json").read_text())
    assert figures["batch"]["queued"] == figures["batch"]["lines"] == 300
    assert [row["clients"] for row in figures["submission"]["rows"]] == [1, 8, 32]
    assert all(row["failed"] == 0 for row in figures["waiting"]["rows"])
    assert set(figures["service"]["cpu_ms_a_page"]) == {"web", "CPU worker", "servers", "model workers"}
    assert "figures say nothing" in (tmp_path / "api.md").read_text()
