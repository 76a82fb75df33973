"""What this process takes of its machine, for its sign of life: memory, cores, and what torch holds of a GPU."""

from __future__ import annotations

import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from batchinfer.domain.memory import CUDA_BASE_MIB, MIB
from batchinfer.observe.kernel_texts import parse_sizes


class Vitals:
    """Figures of this process, from one look to the next."""

    def __init__(self) -> None:
        self._at, self._cpu_s = time.monotonic(), time.process_time()

    def look(self) -> dict[str, Any]:
        """`rss_mib` resident, `cores_used` computed with on average since the last look, and `device_mib` of a GPU
        where torch holds one; None where it does not."""
        now, cpu_s = time.monotonic(), time.process_time()
        cores = (cpu_s - self._cpu_s) / (now - self._at) if now > self._at else 0.0
        self._at, self._cpu_s = now, cpu_s
        return {"rss_mib": read_status("VmRSS"), "cores_used": round(cores, 2), "device_mib": read_reserved_mib()}


def read_status(name: str) -> int:
    """A figure of this process as the kernel has it, in MiB; without one, the most that was resident so far."""
    with suppress(OSError, ValueError, KeyError):
        return parse_sizes(Path("/proc/self/status").read_text())[name] // MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def read_reserved_mib(*, most: bool = False) -> int | None:
    """What torch has reserved of its GPU and the context, in MiB, or the most so far; None where it has none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    reserved = torch.cuda.max_memory_reserved() if most else torch.cuda.memory_reserved()
    return int(reserved) // MIB + CUDA_BASE_MIB
