"""Processes that an earlier run left behind: found by what they are, not by a number in a file."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: In the environment of each process that `up` starts: the home it belongs to.
MARK = "BATCHINFER_UP_HOME"
GONE_S = 10.0


def find_marked(home: Path) -> set[int]:
    """Process ids whose environment says that `up` started them for `home`."""
    wanted = f"{MARK}={home.resolve()}".encode()
    found = set()
    for pid in _processes():
        with suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def find_postgres(data: Path) -> set[int]:
    """Process ids of Postgres servers, and their own processes, that work in the cluster `data`.

    They write their titles over their environment, so they are known by program and working folder.
    """
    found = set()
    for pid in _processes():
        with suppress(OSError):
            program = Path(f"/proc/{pid}/exe").readlink().name.removesuffix(" (deleted)")
            if program == "postgres" and Path(f"/proc/{pid}/cwd").readlink() == data.resolve():
                found.add(pid)
    return found


def end_orphans(home: Path) -> int:
    """End what an earlier run of this home left behind, servers last. Answers how many processes there were.

    Only who holds the home's lock may do this.
    """
    ours, servers = find_marked(home), find_postgres(home / "pg")
    for number in (signal.SIGTERM, signal.SIGKILL):
        end_processes(find_marked(home), number, within_s=3.0)
    for number in (signal.SIGQUIT, signal.SIGKILL):
        end_processes(find_postgres(home / "pg"), number)
    return len(ours | servers)


def end_processes(pids: Iterable[int], number: signal.Signals, within_s: float = GONE_S) -> None:
    """Send a signal to each and wait until all are gone, at most `within_s`."""
    waiting = set(pids)
    for pid in waiting:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
    deadline = time.monotonic() + within_s
    while waiting and time.monotonic() < deadline:
        waiting = {pid for pid in waiting if process_runs(pid)}
        if waiting:
            time.sleep(0.02)


def _processes() -> set[int]:
    own = os.getpid()
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != own}


def process_runs(pid: int) -> bool:
    """Whether the process is there and not merely waiting to be reaped."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}
