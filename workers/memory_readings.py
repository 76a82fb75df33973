"""What this process takes, and what its device has: read while it works, without disturbing it."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from batchinfer.observe.kernel_texts import parse_sizes
from workers.engine.residency import measure_resident

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.doctor.findings import Look
    from batchinfer.observe.metrics import Sheet

#: How long the share of weights in the page cache is kept: to look costs a walk over their pages.
RESIDENCY_S = 60.0


def tell_process(sheet: Sheet, look: Look) -> None:
    """Memory of this process; what the kernel does not show is not told."""
    found = parse_sizes(look.read("proc/self/status") or "")
    for metric, name in (("resident", "VmRSS"), ("swapped", "VmSwap")):
        sheet.add(f"batchinfer_worker_{metric}_bytes", found.get(name))


def tell_device(sheet: Sheet, host: str, device: str) -> None:
    """A GPU that torch uses in this process, whose name among the host's devices is given; nothing on a CPU, whose
    memory is the machine's, and nothing before the first use: looking would begin it."""
    torch = sys.modules.get("torch")
    if torch is None or device == "cpu" or not torch.cuda.is_initialized():
        return
    free, size = torch.cuda.mem_get_info()
    stats = torch.cuda.memory_stats()
    sheet.add("batchinfer_device_memory_size_bytes", size, host, device)
    sheet.add("batchinfer_device_memory_used_bytes", size - free, host, device)
    for metric, name in (
        ("allocated", "allocated_bytes.all.current"),
        ("reserved", "reserved_bytes.all.current"),
        ("fragmented", "inactive_split_bytes.all.current"),
    ):
        sheet.add(f"batchinfer_worker_memory_{metric}_bytes", stats.get(name, 0), device)


class Residency:
    """The share of a model's weight files in the page cache, looked at once in a while."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._looked_at: float | None = None
        self._share: float | None = None

    def find_share(self) -> float | None:
        """0 to 1; None where there are no such files, or the kernel does not say."""
        with self._lock:
            now = time.monotonic()
            if self._looked_at is None or now - self._looked_at >= RESIDENCY_S:
                self._looked_at, self._share = now, None
                with suppress(OSError):
                    files = sorted(self._folder.glob("*.safetensors"))
                    self._share = measure_resident(files) if files else None
            return self._share
