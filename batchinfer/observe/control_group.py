"""What the control group of this process allows it, of either version, by /proc and /sys (cgroups(7))."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/")
#: Without a limit v1 says a number near 2**63.
_UNLIMITED = 2**60
#: A limit as either version writes it: `max`, a number, or a quota and its period. Longer ones no kernel writes.
_LIMIT = re.compile(r"(max|\d{1,20})( \d{1,20})?", re.ASCII)
#: What version 1 alone writes -1 into, for no limit.
_MAY_BE_BELOW_ZERO = "cpu.cfs_quota_us"


def list_group_folders(root: Path, controller: str) -> list[Path]:
    """Folders that may limit this process: its own first, then those above it up to what is mounted.

    In a container the group may be named as the host sees it, while its own folder is what is mounted: both are here.
    """
    top = root / "sys/fs/cgroup"
    groups = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _number, _, rest = line.partition(":")
        kinds, colon, path = rest.partition(":")
        base = top if not kinds else top / controller
        if colon and (not kinds or controller in kinds.split(",")):
            groups.append((base, [part for part in path.split("/") if part not in ("", "..")]))
    folders = [
        base.joinpath(*parts[:length]) for base, parts in [*groups, (top, []), (top / controller, [])]
        for length in range(len(parts), -1, -1)
    ]  # fmt: skip
    return list(dict.fromkeys(folders))


def read_memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that this process's groups may take, all together; None where nothing is limited."""
    return min((limit for limit, _folder in list_memory_limits(root)), default=None)


def list_memory_limits(root: Path = ROOT) -> list[tuple[int, Path]]:
    """Limits in bytes of this process's group and those above it, each with the group's folder."""
    found = []
    for folder in list_group_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text.isdecimal() and int(text) < _UNLIMITED:
                found.append((int(text), folder))
    return found


def read_cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that this process's groups may take; None where nothing is limited."""
    quotas = []
    for folder in list_group_folders(root, "cpu"):
        words = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        ]  # fmt: skip
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def read_pids(root: Path = ROOT) -> tuple[int, int] | None:
    """(used, allowed) processes and threads of the group with the least room; None where nothing is limited."""
    found = []
    for folder in list_group_folders(root, "pids"):
        used, most = _read(folder / "pids.current"), _read(folder / "pids.max")
        if used.isdecimal() and most.isdecimal():
            found.append((int(used), int(most)))
    return min(found, key=lambda one: one[1] - one[0], default=None)


def read_cpuset(root: Path = ROOT) -> str:
    """The cores that the group may run on, as the kernel writes them (`0-3,8`); empty where it says nothing."""
    names = ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus")
    return next(_read_all(root, "cpuset", *names), "")


def find_unclear(root: Path, controller: str, *names: str) -> Path | None:
    """A file of these groups that is there and holds no numbers, or may not be read: what it limits is not known."""
    files = [folder / name for folder in list_group_folders(root, controller) for name in names]
    return next((file for file in files if os.path.lexists(file) and not _is_clear(file)), None)


def _is_clear(file: Path) -> bool:
    text = _read(file)
    return bool(_LIMIT.fullmatch(text)) or (text, file.name) == ("-1", _MAY_BE_BELOW_ZERO)


def find_pressure_file(root: Path = ROOT) -> Path | None:
    """Where the kernel tells how long this group waits for memory, else the whole machine; None without PSI."""
    folders = list_group_folders(root, "memory")
    places = [*(folder / "memory.pressure" for folder in folders), root / "proc/pressure/memory"]
    return next((place for place in places if _read(place)), None)


def _read_all(root: Path, controller: str, *names: str) -> Iterator[str]:
    for folder in list_group_folders(root, controller):
        for name in names:
            if text := _read(folder / name):
                yield text


def _read(file: Path) -> str:
    with suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace").strip()
    return ""
