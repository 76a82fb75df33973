"""Choose the device and the threads of this process before torch is imported: afterwards it is too late."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from batchinfer.observe.cores import read_ground, show_cores
from workers.cores import CoreRules, bind

#: Read by the libraries under torch when they are loaded, and never again.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_CUDA = re.compile(r"cuda(?::(\d+))?")


@dataclass(frozen=True)
class Pinned:
    """What this process computes with. `device` is what the engine is told: `cpu`, or `cuda:0`, the only
    one it sees."""

    device: str
    threads: int
    #: The cores that it is bound to, as `2-7`; empty where it is not.
    cores: str = ""
    #: Other workers compute on some of these, too.
    shared: bool = False


def pin(device: str, threads: int = 0, rules: CoreRules | None = None) -> Pinned:
    """Bind this process to `device` (auto, cpu, cuda or cuda:N) and, with `rules`, to cores near it; it computes with
    `threads` threads (0: as many as cores are given, which is half of what is near, as threads that wait for each
    other on busy cores are slower than one).

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
    plan = bind(os.environ["CUDA_VISIBLE_DEVICES"], threads, rules) if rules else None
    count = threads or (plan.threads if plan else max(1, count_cores() // 2))
    for name in _THREAD_VARIABLES:
        os.environ.setdefault(name, str(count))
    # Its own threads would fight with those of the engine.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if plan is None or not plan.bound:
        return Pinned(seen, count)
    return Pinned(seen, count, show_cores(plan.cores), plan.shared)


def find_device(nodes: Path = Path("/dev")) -> str:
    """The first NVIDIA GPU that may be used, else the CPU. By its device node, without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = visible is not None and visible.strip() in {"", "-1"}
    if not hidden and any(re.fullmatch(r"nvidia\d+", node.name) for node in nodes.iterdir()):
        return "cuda:0"
    return "cpu"


def count_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: its affinity, less what its control group allows; at least 1."""
    ground = read_ground(root)
    return max(1, min(len(ground.allowed), int(ground.quota or len(ground.allowed))))


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
