"""The cores of this machine, which of them this process may use, and which are near a device; by /proc and /sys."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from batchinfer.observe.control_group import ROOT, read_cpu_quota, read_cpuset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Files by which containers tell that they are some: Docker, Podman, Kubernetes.
_CONTAINED = (".dockerenv", "run/.containerenv", "var/run/secrets/kubernetes.io")
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


@dataclass(frozen=True)
class Ground:
    """What a machine lets this process compute on."""

    #: Numbers of the cores that it may run on.
    allowed: frozenset[int]
    #: Cores by NUMA node; empty where the kernel shows no nodes.
    nodes: Mapping[int, frozenset[int]] = field(default_factory=dict)
    #: Cores' worth of time that its control group may take; None: all.
    quota: float | None = None
    #: Others that cannot be seen from here may be bound to the same cores: a container without cores of its own.
    crowded: bool = False


@dataclass(frozen=True)
class Card:
    """A GPU by its PCI address. `node`: the NUMA node that is near; None where the machine does not say."""

    address: str
    uuid: str
    node: int | None


def parse_cores(text: str) -> frozenset[int]:
    """`0-3,8` as the kernel writes it (cpuset(7)). Raises ValueError."""
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        found = _RANGE.fullmatch(part)
        if found is None:
            raise ValueError("no list of cores")
        cores.update(range(int(found[1]), int(found[2] or found[1]) + 1))
    return frozenset(cores)


def show_cores(cores: Iterable[int]) -> str:
    """The same list as text, for people and for `taskset`."""
    ordered = sorted(cores)
    starts = [core for core in ordered if core - 1 not in ordered]
    ends = [core for core in ordered if core + 1 not in ordered]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def read_ground(root: Path = ROOT, affinity: Iterable[int] | None = None) -> Ground:
    """This machine; `affinity` stands in for what the kernel lets this process run on. What is broken is left out."""
    allowed = frozenset(os.sched_getaffinity(0) if affinity is None else affinity)
    with suppress(ValueError):
        allowed = (allowed & parse_cores(read_cpuset(root))) or allowed
    quota, online = read_cpu_quota(root), allowed
    with suppress(OSError, ValueError):
        online = parse_cores((root / "sys/devices/system/cpu/online").read_text())
    contained = quota is not None or any((root / name).exists() for name in _CONTAINED)
    return Ground(allowed, read_nodes(root), quota, crowded=contained and allowed >= online)


def read_nodes(root: Path = ROOT) -> dict[int, frozenset[int]]:
    """Cores by NUMA node; nodes that have memory alone are left out."""
    nodes = {}
    for folder in (root / "sys/devices/system/node").glob("node[0-9]*"):
        with suppress(OSError, ValueError):
            if cores := parse_cores((folder / "cpulist").read_text()):
                nodes[int(folder.name.removeprefix("node"))] = cores
    return dict(sorted(nodes.items()))


def list_cards(root: Path = ROOT) -> list[Card]:
    """NVIDIA's GPUs that its driver shows here, in the order of their addresses, in which `nvidia-smi` numbers them."""
    folder = root / "proc/driver/nvidia/gpus"
    names = sorted(place.name for place in folder.iterdir()) if folder.is_dir() else []
    return [Card(name, _read_uuid(folder / name), read_device_node(root, name)) for name in names]


def read_device_node(root: Path, address: str) -> int | None:
    """The NUMA node near a PCI device; None where the firmware does not say (-1)."""
    with suppress(OSError, ValueError):
        node = int((root / "sys/bus/pci/devices" / address.lower() / "numa_node").read_text())
        return node if node >= 0 else None
    return None


def find_card(cards: list[Card], visible: str) -> Card | None:
    """The GPU that CUDA_VISIBLE_DEVICES names by index or UUID; None where it cannot be told (parts of a MIG)."""
    if visible.isdecimal():
        return cards[int(visible)] if int(visible) < len(cards) else None
    return next((card for card in cards if visible.startswith("GPU-") and card.uuid.startswith(visible)), None)


def _read_uuid(folder: Path) -> str:
    with suppress(OSError):
        for line in (folder / "information").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "GPU UUID":
                return value.strip()
    return ""
