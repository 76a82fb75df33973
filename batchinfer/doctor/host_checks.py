"""This host: memory, swap, pages, cores, limits of the container and of the process, WSL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.doctor.findings import Check, NotKnown, fail, fine, skip, warn
from batchinfer.domain.cores import list_reserved
from batchinfer.domain.memory import MIB
from batchinfer.observe.control_group import find_pressure_file, find_unclear, read_memory_limit, read_pids
from batchinfer.observe.cores import read_ground, show_cores
from batchinfer.observe.kernel_texts import parse_sizes
from batchinfer.observe.strain import read_strain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.doctor.findings import Look, Said

#: Above this share of ten seconds in which somebody waited for memory, it is short.
PRESSED = 10.0


def read_meminfo(look: Look) -> dict[str, int]:
    """/proc/meminfo in bytes by name. Raises NotKnown where it is not there."""
    text = look.read("proc/meminfo")
    if text is None:
        raise NotKnown("/proc/meminfo is not there, or may not be read.")
    return parse_sizes(text)


def read_whole_mib(look: Look) -> int:
    """The memory of this machine in MiB. Raises NotKnown."""
    return _pick(read_meminfo(look), "MemTotal") // MIB


def _pick(memory: Mapping[str, int], name: str) -> int:
    if name not in memory:
        raise NotKnown(f"/proc/meminfo does not say {name} in a form that is known here.")
    return memory[name]


def check_swappiness(look: Look) -> Said:
    """How gladly the kernel swaps."""
    text = look.read("proc/sys/vm/swappiness")
    if text is None:
        return skip("The kernel does not show vm.swappiness.")
    if not text.isdecimal():
        return skip("Not known: vm.swappiness is no number.")
    if int(text) > 10:
        return warn(
            f"vm.swappiness is {text}: weights may be swapped out beside a large page cache.",
            "Set `vm.swappiness = 1` in /etc/sysctl.d/ and apply it with `sysctl --system`.",
        )
    return fine(f"vm.swappiness is {text}.")


def check_swap(look: Look) -> Said:
    """Swap that is in use now."""
    memory = read_meminfo(look)
    whole = _pick(memory, "SwapTotal")
    used_mib = (whole - _pick(memory, "SwapFree")) // MIB
    if used_mib > 256:
        return warn(
            f"{used_mib} MiB are swapped out.",
            "Give the host more memory, run fewer or smaller models on its CPU, or switch swap off.",
        )
    return fine(f"{used_mib} MiB are swapped out of {whole // MIB} MiB of swap.")


def check_pressure(look: Look) -> Said:
    """Time lost waiting for memory (PSI), and whether workers pause for it."""
    strain, settings = read_strain(look.root), look.settings
    if strain.some is None and find_pressure_file(look.root) is not None:
        return skip("Not known: the kernel's memory.pressure is in no form that is known here.")
    if strain.some is None:
        return skip(
            "The kernel does not measure memory pressure (PSI): workers go by what is read from swap alone. Kernels "
            "from 4.20 on do, some with `psi=1` on their command line."
        )
    full = strain.full or 0.0
    told = f"In {strain.some:.0f} % of the last ten seconds somebody waited for memory, in {full:.0f} % everybody."
    limits = ((strain.some, settings.pressure_some), (full, settings.pressure_full))
    if any(limit and share >= limit for share, limit in limits):
        return warn(
            f"{told} Workers here claim nothing until it is less.",
            "Give the host more memory, or let fewer models run on it;"
            " BATCHINFER_PRESSURE_SOME and _FULL are the limits.",
        )
    if strain.some > PRESSED:
        return warn(told, "Give the host more memory, or let fewer models run on it.")
    return fine(told)


def check_huge_pages(look: Look) -> Said:
    """Transparent huge pages."""
    text = look.read("sys/kernel/mm/transparent_hugepage/enabled")
    if text is None:
        return skip("The kernel has no transparent huge pages.")
    chosen = text.partition("[")[2].partition("]")[0]
    if chosen not in {"always", "madvise", "never"}:
        return skip("Not known: the kernel does not say which choice of transparent huge pages holds.")
    if chosen == "never":
        return warn(
            "Transparent huge pages are off: large tensors of CPU models are looked up page by page.",
            "Set `madvise` or `always` in /sys/kernel/mm/transparent_hugepage/enabled, and measure before and after.",
        )
    return fine(f"Transparent huge pages: {chosen}.")


def check_governor(look: Look) -> Said:
    """How cores choose their frequency."""
    text = look.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if text is None:
        return skip("The cores do not show how their frequency is chosen: a hypervisor does it.")
    if not (text.isascii() and text.isidentifier()):
        return skip("Not known: what stands for the governor of the cores is no name.")
    if text in {"powersave", "conservative"} and look.read("sys/devices/system/cpu/intel_pstate/status") != "active":
        return warn(
            f"The cores save power ({text}): they speed up late.",
            "Choose it with `cpupower frequency-set -g performance`.",
        )
    return fine(f"Frequency of the cores: {text}.")


def check_container_memory(look: Look) -> Said:
    """The memory that the container may take."""
    limit = read_memory_limit(look.root)
    whole_mib = read_whole_mib(look)
    if limit is None and (file := find_unclear(look.root, "memory", "memory.max", "memory.limit_in_bytes")):
        return skip(f"Not known: {file.name} of the control group says no limit in a form that is known here.")
    if limit is None:
        return fine(f"No control group limits the memory; the host has {whole_mib} MiB.")
    mib = limit >> 20
    if mib < 2048:
        return warn(
            f"The control group may take {mib} MiB.",
            "Raise it (`MemoryMax=`, `mem_limit`, `resources.limits.memory`): torch alone takes a GiB.",
        )
    return fine(f"The control group may take {mib} MiB of the host's {whole_mib} MiB; plans count with that.")


def check_cores(look: Look) -> Said:
    """The cores that workers may use, and those that they leave to the rest."""
    ground = read_ground(look.root, look.cores)
    settings = look.settings
    count, nodes = len(ground.allowed), max(1, len(ground.nodes))
    told = f"{count} cores in {nodes} NUMA node{'s' if nodes > 1 else ''}"
    if ground.quota is not None and ground.quota < 1:
        return warn(
            f"{told}, and the control group may use {ground.quota:.1f} of them: each step waits for its next share.",
            "Give it a whole core or more: `CPUQuota=`, `cpus`, `resources.limits.cpu`.",
        )
    if ground.quota is not None and ground.quota < count:
        told += f", of whose time the control group may use {ground.quota:.1f}"
    if ground.quota is None and (file := find_unclear(look.root, "cpu", "cpu.max", "cpu.cfs_quota_us")):
        return skip(f"{told}; of how much of their time is not known: {file.name} is in no form that is known here.")
    if not settings.cpu_affinity:
        return fine(f"{told}. Model workers are not bound to cores.")
    reserved = list_reserved(ground.allowed, settings.reserve_cores)
    if settings.reserve_cores and len(reserved) < settings.reserve_cores:
        return warn(
            f"{told}; {settings.reserve_cores} are to be kept back, which leaves a model worker one.",
            "Lower BATCHINFER_RESERVE_CORES, or unset it.",
        )
    kept = f"model workers keep off {show_cores(reserved)}" if reserved else "none is kept back from model workers"
    return fine(f"{told}; {kept}.")


def check_processes(look: Look) -> Said:
    """Room for processes and threads in the control group."""
    found = read_pids(look.root)
    if found is None and find_unclear(look.root, "pids", "pids.max", "pids.current"):
        return skip("Not known: the control group counts processes in no form that is known here.")
    if found is None:
        return fine("No control group limits processes and threads.")
    used, most = found
    if most - used < 256:
        return warn(
            f"The control group has {used} of {most} processes and threads.",
            "Raise it: `TasksMax=4096`, `pids_limit`; a model worker has some fifty threads.",
        )
    return fine(f"The control group has {used} of {most} processes and threads.")


def check_limits(look: Look) -> Said:
    """Limits of this process."""
    files, processes = look.limits.get("open files", -1), look.limits.get("processes", -1)
    if 0 <= files < 4096:
        return warn(
            f"A process may open {files} files.",
            "Raise it: `LimitNOFILE=65536` in a unit, `ulimits: nofile` in compose, limits.d for a user.",
        )
    if 0 <= processes < 1024:
        return warn(f"A user may have {processes} processes and threads.", "Raise it: `TasksMax=4096`, `LimitNPROC=`.")
    return fine(f"A process may open {'any number of' if files < 0 else files} files.")


def check_wsl(look: Look) -> Said:
    """Windows Subsystem for Linux."""
    version = (look.read("proc/version") or "").lower()
    if not version.startswith("linux version"):
        return skip("Not known: /proc/version is not there, may not be read, or names no Linux.")
    if "microsoft" not in version:
        return skip("This is no WSL.")
    system = look.read("etc/os-release") or ""
    if "docker-desktop" in system.lower() or look.environment.get("WSL_DISTRO_NAME", "").startswith("docker-desktop"):
        return fail(
            "This is Docker Desktop's own distribution: it is small, and an update of Docker Desktop replaces it.",
            "Install a distribution (`wsl --install -d Ubuntu`), make it the default (`wsl -s Ubuntu`), and run there.",
        )
    mib = read_whole_mib(look)
    return warn(
        f"This is WSL with {mib} MiB: by default half of what Windows has.",
        "Set `memory=` and `swap=0` under [wsl2] in .wslconfig to what models may take, then `wsl --shutdown`.",
    )


HOST_CHECKS = (
    Check(
        "swappiness",
        "host",
        "A page that was swapped out is read from the disk in the middle of an answer.",
        check_swappiness,
    ),
    Check("swap in use", "host", "Models that swap are many times slower.", check_swap),
    Check("memory pressure", "host", "Who waits for memory does not compute.", check_pressure),
    Check("huge pages", "host", "Fewer look-ups for large tensors.", check_huge_pages),
    Check("frequency of the cores", "host", "Preparing pictures and CPU models follow it.", check_governor),
    Check(
        "memory of the container",
        "host",
        "Beyond it the kernel kills a worker with all that it holds.",
        check_container_memory,
    ),
    Check("cores", "host", "Steps of a model wait for a core that somebody else has.", check_cores),
    Check("processes", "host", "Who may start no thread stops working.", check_processes),
    Check("limits of a process", "host", "Connections, files and threads are counted against them.", check_limits),
    Check("WSL", "host", "Windows limits memory and slows folders of its own.", check_wsl),
)
