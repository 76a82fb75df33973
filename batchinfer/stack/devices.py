"""What this machine has to compute with."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


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


#: Rendering a page costs a core about a tenth of a second (`make bench-documents` prints it): so many cores bring a
#: device some forty pages a second, more than a model of a billion parameters reads.
CORES_PER_DEVICE = 4
#: Pieces that a CPU worker does at once, unless told otherwise.
PROCESSES = 2


def count_cpu_workers(wanted: str, devices: Sequence[str], cores: int | None = None) -> int:
    """How many CPU workers: `auto` is as many as the devices need, and as the cores that we may use allow.

    Each GPU's own worker keeps a core; a model on the CPU keeps half of them. At least one.
    """
    if wanted != "auto":
        return int(wanted)
    there = len(os.sched_getaffinity(0)) if cores is None else cores
    left = there // 2 if list(devices) == ["cpu"] else there - len(devices)
    return max(1, min(CORES_PER_DEVICE * len(devices), left) // PROCESSES)
