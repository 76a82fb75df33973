"""This machine in numbers: memory, swap, pressure, and the room of the home. What it does not show is None."""

from __future__ import annotations

import mmap
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.doctor.host_checks import read_meminfo
from batchinfer.doctor.storage_checks import find_nearest
from batchinfer.observe.kernel_texts import parse_counts, parse_pressure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.doctor.findings import Look
    from batchinfer.observe.metrics import Sheet


@dataclass(frozen=True)
class Reading:
    """Bytes, but for `pressure` and `free_inodes`, which are shares from 0 to 1."""

    memory: float | None = None
    available: float | None = None
    swap: float | None = None
    swap_used: float | None = None
    #: Since the machine started.
    swapped_in: float | None = None
    swapped_out: float | None = None
    #: Of the last ten seconds, in which somebody waited for memory.
    pressure: float | None = None
    disk: float | None = None
    disk_free: float | None = None
    free_inodes: float | None = None


def read_machine(look: Look) -> Reading:
    """Look once."""
    return Reading(**_read_memory(look), **_read_swapping(look), pressure=_read_pressure(look), **_read_room(look))


def tell_machine(sheet: Sheet, look: Look) -> None:
    """Put what is found on a page of metrics, under this machine's name among the hosts."""
    host, found = look.settings.machine_name, read_machine(look)
    sheet.add("batchinfer_host_memory_size_bytes", found.memory, host)
    sheet.add("batchinfer_host_memory_available_bytes", found.available, host)
    sheet.add("batchinfer_host_swap_size_bytes", found.swap, host)
    sheet.add("batchinfer_host_swap_used_bytes", found.swap_used, host)
    sheet.add("batchinfer_host_swap_in_bytes_total", found.swapped_in, host)
    sheet.add("batchinfer_host_swap_out_bytes_total", found.swapped_out, host)
    sheet.add("batchinfer_host_memory_pressure_ratio", found.pressure, host)
    sheet.add("batchinfer_home_disk_size_bytes", found.disk, host)
    sheet.add("batchinfer_home_disk_free_bytes", found.disk_free, host)
    sheet.add("batchinfer_home_disk_free_inodes_ratio", found.free_inodes, host)


def _read_memory(look: Look) -> dict[str, float | None]:
    found: Mapping[str, int] = {}
    with suppress(ValueError):
        found = read_meminfo(look)
    named = {"memory": "MemTotal", "available": "MemAvailable", "swap": "SwapTotal"}
    shown: dict[str, float | None] = {name: _as_float(found.get(word)) for name, word in named.items()}
    if "SwapTotal" in found and "SwapFree" in found:
        shown["swap_used"] = float(found["SwapTotal"] - found["SwapFree"])
    return shown


def _as_float(count: int | None, each: int = 1) -> float | None:
    return None if count is None else float(count * each)


def _read_swapping(look: Look) -> dict[str, float | None]:
    pages = parse_counts(look.read("proc/vmstat") or "")
    named = {"swapped_in": "pswpin", "swapped_out": "pswpout"}
    return {name: _as_float(pages.get(word), mmap.PAGESIZE) for name, word in named.items()}


def _read_pressure(look: Look) -> float | None:
    some = parse_pressure(look.read("proc/pressure/memory") or "").get("some")
    return None if some is None else some / 100.0


def _read_room(look: Look) -> dict[str, float | None]:
    try:
        found = look.room(find_nearest(look.settings.home))
    except OSError:
        return {}
    return {
        "disk": float(found.f_blocks * found.f_frsize),
        "disk_free": float(found.f_bavail * found.f_frsize),
        "free_inodes": found.f_favail / found.f_files if found.f_files else None,
    }
