"""What this machine has to compute with."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from batchinfer.observe.control_group import read_memory_limit
from batchinfer.observe.kernel_texts import parse_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchinfer.store.hosts import Device

MIB = 2**20
#: How long the driver may take to say what it has.
_ASK_S = 15.0


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


def list_device_facts(
    names: Sequence[str] | None = None, *, root: Path = Path("/"), ask: Callable[[], str] | None = None
) -> list[Device]:
    """What `list_devices` names, and the CPU, with the memory of each: what a host's row keeps. Never by torch.

    `root` and `ask` stand in for the machine's files and for the driver's answer.
    """
    from batchinfer.store.hosts import Device  # what the store needs is not there yet when `up` begins

    named = list_devices() if names is None else list(names)
    gpus = [name for name in named if name != "cpu"]
    found = _read_gpus((ask or _ask_for_memory)()) if gpus else {}
    order = list_visible(list(found))
    cpu = Device("cpu", "cpu", read_memory_mib(root), _read_processor(root))
    devices = []
    for name in gpus:
        index = int(name.partition(":")[2] or 0)
        total, title = found.get(order[index], (None, "")) if index < len(order) else (None, "")
        devices.append(Device(name, "cuda", total, title))
    return [*devices, cpu]


def read_memory_mib(root: Path = Path("/")) -> int | None:
    """What this machine's processes may hold, in MiB: its memory, or what the control group allows if that is less."""
    limits = [limit for limit in [read_memory_limit(root)] if limit is not None]
    total = read_meminfo(root).get("MemTotal")
    if total is not None:
        limits.append(total)
    return min(limits) // MIB if limits else None


def read_meminfo(root: Path = Path("/")) -> dict[str, int]:
    """The kernel's figures of this machine's memory, in bytes, by their names; empty where there are none."""
    with suppress(OSError):
        return parse_sizes((root / "proc/meminfo").read_text())
    return {}


def _read_processor(root: Path) -> str:
    with suppress(OSError):
        for line in (root / "proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""


def _ask_for_memory() -> str:
    return ask_driver("index,uuid,memory.total,name")


def ask_driver(fields: str) -> str:
    """The driver's table of its GPUs with these fields, a GPU a line; empty where it does not answer."""
    program = which("nvidia-smi")
    if program is None:
        return ""
    argv = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=_ASK_S, check=False, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _read_gpus(table: str) -> dict[str, tuple[int | None, str]]:
    """Index and UUID of each GPU to (MiB, name), by index first; lines that are none of a GPU are left out."""
    found: dict[str, tuple[int | None, str]] = {}
    for line in table.splitlines():
        parts = [part.strip() for part in line.split(",", 3)]
        if len(parts) == 4 and parts[0].isdecimal():
            value = (int(parts[2]) if parts[2].isdecimal() else None, parts[3])
            found[parts[0]] = found[parts[1]] = value
    return found


def list_visible(known: Sequence[str]) -> list[str]:
    """What cuda:0, cuda:1 and so on are, by index or UUID as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return sorted((name for name in known if name.isdecimal()), key=int)
    return [item.strip() for item in visible.split(",") if item.strip() not in {"", "-1"}]
