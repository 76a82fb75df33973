"""What the figures were taken on, and what a process holds."""

from __future__ import annotations

import datetime as dt
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any


def describe_machine(threads: int, cores: int) -> dict[str, Any]:
    """The machine, the versions and the load average of the last minute, now. `cores` 0 says that none were chosen."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "cpu": find_cpu_model(),
        "cores": os.cpu_count() or 1,
        "cores_used": cores or len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 2),
        "threads": threads,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "tokenizers")},
    }


def find_cpu_model() -> str:
    """The processor's name as the kernel gives it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def pin_to_cores(count: int) -> list[int]:
    """Keep this process and its children on the last `count` cores that it may use; 0 leaves them all."""
    allowed = sorted(os.sched_getaffinity(0))
    chosen = allowed[-count:] if count else allowed
    os.sched_setaffinity(0, chosen)
    return chosen


def read_resident_mib() -> float:
    """Memory that this process holds, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
