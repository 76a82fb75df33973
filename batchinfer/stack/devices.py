"""What this machine has to compute with."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from importlib import metadata
from pathlib import Path


def list_devices(nodes: Path = Path("/dev")) -> list[str]:
    """The devices for model workers, as torch names them: each NVIDIA GPU that may be used, else the CPU.

    Counted by device node, since a container sees the nodes of its own GPUs alone; never by importing torch.
    A build of torch for CPUs leaves GPUs unused.
    """
    with suppress(metadata.PackageNotFoundError):
        if metadata.version("torch").endswith("+cpu"):
            return ["cpu"]
    count = sum(bool(re.fullmatch(r"nvidia\d+", node.name)) for node in nodes.iterdir())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = min(count, len([item for item in visible.split(",") if item.strip() not in {"", "-1"}]))
    return [f"cuda:{index}" for index in range(count)] or ["cpu"]


def count_cpu_workers(wanted: str) -> int:
    """How many CPU workers: `auto` is half of the cores that we may use, at least one."""
    return max(1, len(os.sched_getaffinity(0)) // 2) if wanted == "auto" else int(wanted)
