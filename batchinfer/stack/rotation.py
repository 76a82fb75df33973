"""Logs are kept within bounds while their processes write on, those of Postgres and Valkey, too.

A process holds its log open for its life, so the file cannot be taken from under it: what is in it is copied aside and
the file cut to nothing. Every process appends, so it goes on at the new end. A line that is written between the last
byte of the copy and the cut is lost.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: A log larger than this is set aside as `.1`; so many are kept beside the one that is written.
LOG_CAP_BYTES = 16 * 2**20
LOGS_KEPT = 3
LOOK_S = 2.0


class LogRotation:
    """Looks at the logs of a folder, at most every two seconds."""

    def __init__(self, folder: Path, cap_bytes: int = LOG_CAP_BYTES) -> None:
        self._folder, self._cap_bytes = folder, cap_bytes
        self._look_at_s = 0.0

    def look(self) -> None:
        """Set aside what has grown too large. A disk that is full is no error here: another look comes."""
        now_s = time.monotonic()
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_S
        for log in self._folder.glob("*.log"):
            try:
                if log.stat().st_size > self._cap_bytes:
                    set_aside(log)
            except OSError:
                continue


def set_aside(log: Path) -> None:
    """Copy a log to `.1`, what was there to `.2` and so on, and cut it to nothing. Raises OSError; then it is whole."""
    fresh = log.with_name(log.name + ".new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with log.open("rb") as source, os.fdopen(descriptor, "wb", buffering=0) as target:
            shutil.copyfileobj(source, target, 2**20)
            for number in range(LOGS_KEPT, 1, -1):
                older = log.with_name(f"{log.name}.{number - 1}")
                if older.exists():
                    older.replace(log.with_name(f"{log.name}.{number}"))
            while piece := source.read(2**20):  # what was written meanwhile
                target.write(piece)
            os.truncate(log, 0)
        fresh.replace(log.with_name(log.name + ".1"))
    finally:
        fresh.unlink(missing_ok=True)
