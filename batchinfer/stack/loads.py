"""How this machine's devices stand with all processes on them: what the kernel and the driver say, without torch."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from batchinfer.observe.control_group import list_memory_limits
from batchinfer.observe.logs import get_logger
from batchinfer.stack.devices import MIB, ask_driver, list_visible, read_meminfo
from batchinfer.store.hosts import DeviceLoad

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchinfer.store.hosts import Device

#: Between two looks.
LOOK_S = 10.0
#: Looks whose mean is the use: those of a minute.
_LOOKS = 6
_FIELDS = "index,uuid,memory.used,utilization.gpu"

_log = get_logger(__name__)


class Meter:
    """Looks at devices. Uses are means of the last minute; whatever cannot be known is None, never 0."""

    def __init__(
        self, devices: Sequence[Device], *, root: Path = Path("/"), ask: Callable[[], str] | None = None
    ) -> None:
        """`root` and `ask` stand in for the machine's files and for the driver's answer."""
        self._names = [device.name for device in devices]
        self._root, self._ask = root, ask or (lambda: ask_driver(_FIELDS))
        self._ticks = _read_ticks(root)
        self._uses: dict[str, deque[float]] = {name: deque(maxlen=_LOOKS) for name in self._names}

    def look(self) -> dict[str, DeviceLoad]:
        """Each device as it stands now."""
        gpus = [name for name in self._names if name != "cpu"]
        found = _read_gpus(self._ask()) if gpus else {}
        order = list_visible(list(found))
        loads = {}
        for name in self._names:
            index = int(name.partition(":")[2] or 0) if name != "cpu" else 0
            if name == "cpu":
                taken, use = read_taken_mib(self._root), self._read_cpu()
            else:
                taken, use = found.get(order[index], (None, None)) if index < len(order) else (None, None)
            loads[name] = DeviceLoad(taken, self._smooth(name, use))
        return loads

    def _smooth(self, name: str, use: float | None) -> float | None:
        if use is None:
            self._uses[name].clear()
            return None
        self._uses[name].append(use)
        return round(sum(self._uses[name]) / len(self._uses[name]), 3)

    def _read_cpu(self) -> float | None:
        """The part of all cores' time that was spent since the last look."""
        before, self._ticks = self._ticks, _read_ticks(self._root)
        if before is None or self._ticks is None or self._ticks[1] <= before[1]:
            return None
        busy, whole = (now - then for now, then in zip(self._ticks, before, strict=True))
        return min(1.0, max(0.0, busy / whole))


class LoadWatch(threading.Thread):
    """A meter on a thread of its own: a driver that does not answer holds up no sign of life."""

    def __init__(self, devices: Sequence[Device]) -> None:
        super().__init__(name="loads", daemon=True)
        self._meter = Meter(devices)
        self._quit = threading.Event()
        self._found: dict[str, DeviceLoad] | None = None

    def take(self) -> dict[str, DeviceLoad] | None:
        """What the last look found, once a look; None while there is nothing new."""
        found, self._found = self._found, None
        return found

    def close(self) -> None:
        """Look no more."""
        self._quit.set()

    def run(self) -> None:
        while not self._quit.wait(LOOK_S):
            try:
                self._found = self._meter.look()
            except Exception:
                _log.exception("the devices could not be looked at")


def read_taken_mib(root: Path = Path("/")) -> int | None:
    """What processes hold of the memory that `read_memory_mib` tells, in MiB, less what the kernel would give back."""
    memory = read_meminfo(root)
    limits = list_memory_limits(root)
    if limits and min(limits)[0] < memory.get("MemTotal", 0):
        return _read_group(min(limits)[1])
    if "MemTotal" not in memory or "MemAvailable" not in memory:
        return None
    return (memory["MemTotal"] - memory["MemAvailable"]) // MIB


def _read_group(folder: Path) -> int | None:
    """What a control group holds, of either version; pages of files that nobody used of late can be had again."""
    for name, idle in (("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")):
        with suppress(OSError, ValueError):
            held = int((folder / name).read_text())
            lines = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
            return max(0, held - sum(int(parts[1]) for parts in lines if parts[0] == idle)) // MIB
    return None


def _read_ticks(root: Path) -> tuple[int, int] | None:
    """Busy and all ticks of all cores since the machine started."""
    with suppress(OSError, ValueError, IndexError):
        line = (root / "proc/stat").read_text().splitlines()[0].split()
        if line[0] == "cpu" and len(line) > 8:
            # user, nice, system, idle, iowait, irq, softirq, steal; those of guests are in user and nice.
            ticks = [int(part) for part in line[1:9]]
            return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
    return None


def _read_gpus(table: str) -> dict[str, tuple[int | None, float | None]]:
    """Index and UUID of each GPU to (MiB in use, part of the time in use); what a card does not tell is None."""
    found: dict[str, tuple[int | None, float | None]] = {}
    for line in table.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[0].isdecimal():
            taken = int(parts[2]) if parts[2].isdecimal() else None
            use = int(parts[3]) / 100 if parts[3].isdecimal() else None
            found[parts[0]] = found[parts[1]] = (taken, use)
    return found
