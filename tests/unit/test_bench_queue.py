"""The queue's bench: goals are judged by what was measured, parts keep each other's figures."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bench.queue import report

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = {"cpu": "x", "cores_used": 2, "memory_gib": 4.0, "system": "s", "python": "3", "load_average": 0.5}


def found(share: float, cpu_us: float, p95_ms: float, seconds: float, lost: int) -> dict[str, Any]:
    """Figures of a run, as the parts give them."""
    drain = {
        "jobs": 10, "nominal_per_s": 100.0, "share_of_nominal": share, "jobs_per_s": 100 * share, "worker_cpu_us": 1.0,
        "queue_cpu_us": cpu_us, "engine_cpu_us": 10.0,
    }  # fmt: skip
    claims = {
        "rows_a_claim": 64, "rows": 1000, "tenants": 5, "p50_ms": 1.0, "p95_ms": p95_ms, "core_p50_ms": 1.0,
        "core_p95_ms": 2.0,
    }  # fmt: skip
    recovery = {
        "lease_ttl_s": 3.0, "held_at_kill": 8, "seconds": seconds, "lost": lost, "given_back": 8, "results": 8 - lost,
        "jobs": 8,
    }  # fmt: skip
    parts = {"drain": drain, "claims": claims, "recovery": recovery}
    return {name: {**part, "machine": MACHINE, "small": False} for name, part in parts.items()}


def test_a_goal_is_met_or_missed_by_its_own_figure() -> None:
    assert [met for *_, met in report.judge(found(0.9, 150, 5.0, 13.0, 0))] == [True] * 4
    assert [met for *_, met in report.judge(found(0.89, 151, 5.1, 13.1, 0))] == [False] * 4
    assert [met for *_, met in report.judge(found(1, 1, 1, 1.0, 1))] == [True, True, True, False]


def test_the_page_says_what_was_missed(tmp_path: Path) -> None:
    report.write(tmp_path, found(0.5, 100, 1.0, 4.0, 0))
    page = (tmp_path / "queue.md").read_text()
    assert page.count("**missed**") == 1
    assert page.count("| met |") == 3
    assert json.loads((tmp_path / "queue.json").read_text())["drain"]["share_of_nominal"] == 0.5


@pytest.mark.long
def test_parts_run_on_real_servers_and_keep_each_others_figures(tmp_path: Path) -> None:
    for part in ("waking", "recovery"):
        command = [sys.executable, "-m", "bench.queue", "--small", "--parts", part, "--out", str(tmp_path)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert run.returncode == 0, run.stderr
    figures = json.loads((tmp_path / "queue.json").read_text())
    assert figures["recovery"]["results"] == figures["recovery"]["jobs"] == 16
    assert figures["recovery"]["given_back"] >= 1
    assert figures["waking"]["announced"]["jobs"] == 8
    assert "figures say nothing" in (tmp_path / "queue.md").read_text()
