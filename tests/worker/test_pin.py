"""The device and the threads are chosen before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batchinfer.domain.cores import CorePlan
from workers import pin as pins
from workers.cores import CoreRules
from workers.pin import Pinned, count_cores, find_device, pin

if TYPE_CHECKING:
    from pathlib import Path

VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No torch, and an environment of this test's own."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in (*VARIABLES, "NUMEXPR_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "x")  # so that it is put back afterwards
        monkeypatch.delenv(name)


def test_the_cpu_sees_no_gpu() -> None:
    pinned = pin("cpu", 3)
    assert (pinned.device, pinned.threads) == ("cpu", 3)
    assert [os.environ[name] for name in VARIABLES] == ["", "3", "3", "3"]


def test_a_gpu_is_the_only_one_that_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pin("cuda:1").device == "cuda:0"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    pin("cuda:1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    with pytest.raises(ValueError, match="1 are visible"):
        pin("cuda:1")


def test_threads_that_are_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pin("cpu", 8)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_nonsense_and_lateness_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="auto, cpu, cuda"):
        pin("tpu")
    monkeypatch.setitem(sys.modules, "torch", pins)
    with pytest.raises(RuntimeError, match="before torch"):
        pin("cpu")


def test_auto_looks_for_device_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device(tmp_path) == "cpu"
    (tmp_path / "nvidiactl").touch()
    assert find_device(tmp_path) == "cpu"
    (tmp_path / "nvidia0").touch()
    assert find_device(tmp_path) == "cuda:0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert find_device(tmp_path) == "cpu"


def test_a_quota_counts(tmp_path: Path) -> None:
    quota = tmp_path / "sys/fs/cgroup/cpu.max"
    quota.parent.mkdir(parents=True)
    quota.write_text("100000 100000\n")
    assert count_cores(tmp_path) == 1
    quota.write_text("max 100000\n")
    assert count_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_threads_are_the_cores_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def give(visible: str, threads: int, rules: CoreRules) -> CorePlan:
        asked.append((visible, threads))
        return CorePlan(frozenset({2, 3, 4}), threads or 3)

    monkeypatch.setattr(pins, "bind", give)
    assert pin("cuda:1", 0, CoreRules()) == Pinned("cuda:0", 3, "2-4")
    assert pin("cpu", 2, CoreRules()).threads == 2
    assert asked == [("1", 0), ("", 2)]
    monkeypatch.setattr(pins, "bind", lambda *_: CorePlan(frozenset({0, 1}), 1, bound=False))
    assert pin("cpu", 0, CoreRules()) == Pinned("cpu", 1)


def test_worker_modules_are_imported_without_torch_and_settings() -> None:
    code = "import sys, workers.model, workers.cpu, workers.beat; sys.exit('torch' in sys.modules)"
    environment = {"PATH": os.environ["PATH"]}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=240).returncode == 0


def test_a_worker_without_settings_says_which() -> None:
    command = [sys.executable, "-m", "celery", "-A", "workers.model", "worker"]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "BATCHINFER_REDIS_URL" in done.stderr
    assert "Traceback" not in done.stderr
