"""The seconds of a start by phase: start (the process, its imports, its row), read, copy, warm_up, verify."""

from __future__ import annotations

import os
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from batchinfer import __version__

if TYPE_CHECKING:
    from workers.engine.protocol import Engine

#: Where the kernel keeps a process's start among the fields that follow its name, in ticks since the machine's.
_STARTED_FIELD = 19


def measure_age_s(stat: Path = Path("/proc/self/stat")) -> float:
    """Seconds since this process was started, from before its first line ran."""
    fields = stat.read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_STARTED_FIELD]) / os.sysconf("SC_CLK_TCK")


class Phases:
    """Counts from the process's start; each phase ends where the next begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._ended_at = time.monotonic() - measure_age_s()

    def end(self, name: str, parts: dict[str, float] | None = None) -> None:
        """The phase `name` is over. `parts` of it are phases of their own; what they leave is its. All add up."""
        now = time.monotonic()
        left = now - self._ended_at
        for part, seconds in (parts or {}).items():
            if part != name:
                self._add(part, seconds)
                left -= seconds
        self._add(name, max(0.0, left))
        self._ended_at = now

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 3)


def find_versions(engine: Engine) -> dict[str, str]:
    """Of the engine and what lies under it, as installed; nothing is imported for it. Of an engine before a server
    that server's own (`upstream`), where it says it: no library of ours made the answers."""
    found = {"batchinfer": __version__, "engine": engine.name}
    if hasattr(engine, "upstream_version"):
        return found | ({"upstream": engine.upstream_version} if engine.upstream_version else {})
    for name in ("torch", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
