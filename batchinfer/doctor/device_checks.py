"""NVIDIA devices of this host, by what the kernel shows of them: driver, NUMA node, MPS."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from batchinfer.doctor.findings import Check, fail, fine, skip, warn
from batchinfer.observe.cores import read_nodes, show_cores

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.doctor.findings import Look, Said

#: The oldest driver that runs the CUDA 12.4 and newer with which torch 2.11 and newer are built.
LEAST_DRIVER = (550, 54)
#: The oldest driver for each major version of CUDA (NVIDIA, "CUDA Compatibility", minor version compatibility).
LEAST_BY_CUDA = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
_DRIVER = "proc/driver/nvidia/version"
_BUILT = re.compile(r"^cuda\b[^=\n]*=\s*['\"](\d+)\.(\d+)", re.MULTILINE)
_VERSION = re.compile(r"Kernel Module(?: for \S+)?\s+(\d+)\.(\d+)")


def list_devices(look: Look) -> list[Path]:
    """The PCI folders of NVIDIA's display and compute devices."""
    folder = look.root / "sys/bus/pci/devices"
    if not folder.is_dir():
        return []
    return [
        place
        for place in sorted(folder.iterdir())
        if _read(place / "vendor") == "0x10de" and _read(place / "class").startswith("0x03")
    ]


def check_driver(look: Look) -> Said:
    """The driver's version."""
    text, devices = look.read(_DRIVER), list_devices(look)
    if text is None and os.path.lexists(look.root / _DRIVER):
        return skip(f"Not known: /{_DRIVER} may not be read.")
    if text is None and not devices:
        return skip("There is no NVIDIA device here.")
    if text is None:
        return fail(
            f"{len(devices)} NVIDIA devices, and no driver is loaded.",
            "Install NVIDIA's driver on the host, and in a container the NVIDIA Container Toolkit (`--gpus all`).",
        )
    found = _VERSION.search(text)
    if found is None:
        return skip("The driver does not say its version in a form that is known here.")
    version = (int(found[1]), int(found[2]))
    if version < LEAST_DRIVER:
        return fail(
            f"The driver is {found[1]}.{found[2]}.",
            f"Install {LEAST_DRIVER[0]}.{LEAST_DRIVER[1]} or newer: torch's CUDA builds need it.",
        )
    return fine(f"The driver is {found[1]}.{found[2]}.")


def check_cuda(look: Look) -> Said:
    """The CUDA that torch was built for, beside the driver."""
    if not list_devices(look):
        return skip("There is no NVIDIA device here.")
    if not look.torch_build:
        return skip("torch is not installed here: no model worker runs on this host, or its environment is another.")
    built = _BUILT.search(look.torch_build)
    if built is None:
        return warn(
            "torch here was built without CUDA: models run on the CPU, and the devices stay idle.",
            "Install a build of torch for CUDA; pytorch.org names the command.",
        )
    cuda, least = f"{built[1]}.{built[2]}", LEAST_BY_CUDA.get(int(built[1]))
    found = _VERSION.search(look.read(_DRIVER) or "")
    if found is None or least is None:
        return skip(f"torch was built for CUDA {cuda}; whether the driver fits is not known here.")
    if (int(found[1]), int(found[2])) < least:
        return fail(
            f"torch was built for CUDA {cuda}, which the driver {found[1]}.{found[2]} does not run.",
            f"Install the driver {least[0]}.{least[1]} or newer, or a build of torch for an older CUDA.",
        )
    return fine(f"torch was built for CUDA {cuda}, which the driver {found[1]}.{found[2]} runs.")


def check_numa(look: Look) -> Said:
    """Which cores are near which device."""
    nodes = sorted((look.root / "sys/devices/system/node").glob("node[0-9]*"))
    devices = list_devices(look)
    if not devices:
        return skip("There is no NVIDIA device here.")
    if len(nodes) < 2:
        return fine("One NUMA node: all cores are as near to each device.")
    places = {device.name: _read(device / "numa_node") for device in devices}
    unknown = [name for name, node in places.items() if not node.isdecimal()]
    if unknown:
        return warn(
            f"{len(nodes)} NUMA nodes, and {', '.join(unknown)} does not say which is near.",
            "Look at `nvidia-smi topo -m`, and bind the worker by hand: `CPUAffinity=` and `NUMAPolicy=` in its unit.",
        )
    near = read_nodes(look.root)
    said = "; ".join(
        f"{name}: node {node}, cores {show_cores(near.get(int(node), ())) or 'not known'}"
        for name, node in places.items()
    )
    return fine(f"{len(nodes)} NUMA nodes. {said}.")


def check_mps(look: Look) -> Said:
    """NVIDIA's Multi-Process Service."""
    if not list_devices(look) and look.read(_DRIVER) is None:
        return skip("There is no NVIDIA device here.")
    pipe = look.environment.get("CUDA_MPS_PIPE_DIRECTORY", "tmp/nvidia-mps").lstrip("/")  # NVIDIA's default
    if (look.root / pipe / "control").exists():
        return fine("MPS runs: models on one device compute at once, and one that crashes can end the others.")
    return fine("MPS does not run: models on one device take turns. It is not needed.")


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


DEVICE_CHECKS = (
    Check("driver", "devices", "Without a driver that fits, torch finds no device.", check_driver),
    Check("CUDA", "devices", "A driver that is older than torch's CUDA runs no model.", check_cuda),
    Check("NUMA", "devices", "Copies from the far node are slower.", check_numa),
    Check("MPS", "devices", "It lets processes share a device, and its faults.", check_mps),
)
