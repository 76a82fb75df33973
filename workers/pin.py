"""Choose the device and the threads of this process before torch is imported: afterwards it is too late."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

#: Read by the libraries under torch when they are loaded, and never again.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_CUDA = re.compile(r"cuda(?::(\d+))?")


@dataclass(frozen=True)
class Pinned:
    """What this process computes with. `device` is what the engine is told: `cpu`, or `cuda:0`, the only
    one it sees."""

    device: str
    threads: int


def pin(device: str, threads: int = 0) -> Pinned:
    """Bind this process to `device` (auto, cpu, cuda or cuda:N) and `threads` cores (0: half of those that
    it may use, as threads that wait for each other on busy cores are slower than one).

    A thread count that the environment already sets is left as it is. Raises ValueError for an unknown
    device, and RuntimeError where torch is loaded already and would not listen.
    """
    if "torch" in sys.modules:
        raise RuntimeError("The device must be chosen before torch is imported.")
    chosen = find_device() if device == "auto" else device
    if chosen == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        seen = "cpu"
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = _find_visible(chosen)
        seen = "cuda:0"
    count = threads or max(1, count_cores() // 2)
    for name in _THREAD_VARIABLES:
        os.environ.setdefault(name, str(count))
    # Its own threads would fight with those of the engine.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return Pinned(seen, count)


def find_device(nodes: Path = Path("/dev")) -> str:
    """The first NVIDIA GPU that may be used, else the CPU. By its device node, without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = visible is not None and visible.strip() in {"", "-1"}
    if not hidden and any(re.fullmatch(r"nvidia\d+", node.name) for node in nodes.iterdir()):
        return "cuda:0"
    return "cpu"


def count_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: its affinity, less what its control group allows; at least 1."""
    cores = len(os.sched_getaffinity(0))
    try:
        allowed, period = quota.read_text().split()
        cores = min(cores, max(1, int(allowed) // int(period)))
    except (OSError, ValueError):  # no quota, or `max`
        pass
    return max(1, cores)


def _find_visible(device: str) -> str:
    """What CUDA_VISIBLE_DEVICES must say so that `device` alone is seen; N counts into what it says now."""
    match = _CUDA.fullmatch(device)
    if match is None:
        raise ValueError(f"The device {device!r} is unknown: use auto, cpu, cuda or cuda:N.")
    index = int(match.group(1) or 0)
    before = [item.strip() for item in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if item.strip()]
    if not before:
        return str(index)
    if index >= len(before):
        raise ValueError(f"The device {device} is not among the visible ones; {len(before)} are visible.")
    return before[index]
