"""A program that this process owns: started behind guard.py, watched, and ended with all that it started."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)

_GUARD = Path(__file__).with_name("guard.py")
#: Seconds that the guard may take beyond the program's own time to stop.
_BEYOND_S = 15.0
#: Of a log that is quoted, in bytes.
_TAIL = 2000


class OwnedProgram:
    """Runs from the beginning until `stop`, or as long as this process lives. What it writes goes to `log`, where one
    is given, else to our own standard error."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], log: Path | None = None, stop_s: float = 15.0
    ) -> None:
        self._stop_s = stop_s
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._on_end: Callable[[int], None] | None = None
        self._stopping = False
        self.log = log
        guarded = [sys.executable, "-I", "-S", str(_GUARD), "--stop-s", str(stop_s), "--", *command]
        output = self._open_log()
        try:
            self._process = subprocess.Popen(
                guarded,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            if output is not None:
                os.close(output)
        threading.Thread(target=self._watch, name="owned-program", daemon=True).start()

    @property
    def pid(self) -> int:
        """The guard's process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.returncode if self._ended.is_set() else None

    def watch(self, on_end: Callable[[int], None]) -> None:
        """Call `on_end(status)` once it has ended by itself, at once if it has already; on any thread."""
        with self._lock:
            self._on_end = on_end
            due = self._ended.is_set() and not self._stopping
        if due:
            on_end(self._process.returncode)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within so many seconds."""
        return self._ended.wait(timeout_s)

    def stop(self, *, wait: bool = True) -> None:
        """End it, and with `wait` see it gone. Safe twice."""
        with self._lock:
            self._stopping = True
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        if wait and not self._ended.wait(self._stop_s + _BEYOND_S):
            _log.error("the guard of a program does not end; it is killed")
            self._process.kill()
            self._ended.wait(_BEYOND_S)

    def read_tail(self) -> str:
        """The last of what it wrote, where there is a log."""
        if self.log is None:
            return ""
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            return file.read(_TAIL).decode(errors="replace")
        return ""

    def _open_log(self) -> int | None:
        if self.log is None:
            return None
        self.log.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _watch(self) -> None:
        status = self._process.wait()
        with self._lock:
            self._ended.set()
            tell = None if self._stopping else self._on_end
        if tell is not None:
            tell(status)
