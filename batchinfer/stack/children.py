"""Child processes that end with us: a parent-death signal on each, an own process group, one log file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Words of the servers' logs that have a remedy.
KNOWN_ENDS = {
    b"No space left on device": "the disk is full, free some space",
    b"Disk quota exceeded": "the disk quota is used up, free some space",
    b"Permission denied": "a file of the home belongs to another user",
    b"Cannot allocate memory": "there is not enough memory",
}
LAUNCHER = Path(__file__).with_name("launch.py")

Way = Literal["self", "namespace", "nobody", "passing"]


@dataclass(frozen=True)
class Program:
    """What to start. `name` names the log file; `role` is the word of the ready-file."""

    role: str
    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    #: Sent by the kernel when we are gone.
    death_signal: signal.Signals = signal.SIGKILL
    #: Asks for an orderly end, then for a quick one; SIGKILL follows by itself.
    stop_signals: Sequence[signal.Signals] = (signal.SIGTERM,)
    way: Way = "self"
    #: Written to the program's standard input, which is then closed: for what `ps` must not show.
    stdin: str = ""
    cwd: Path | None = None
    #: Descriptors that the program takes over from us.
    keep: Sequence[int] = ()


class Child:
    """A running `Program`."""

    def __init__(self, program: Program, process: subprocess.Popen[bytes]) -> None:
        self.program = program
        self.process = process
        self.started_at_s = time.monotonic()

    @property
    def pid(self) -> int:
        """The process id; launch.py keeps it, since exec does."""
        return self.process.pid

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started_at_s

    @property
    def alive(self) -> bool:
        """Whether it still runs; reaps it when it does not."""
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is still there."""
        if self.alive:
            self.process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """True when it has ended within `timeout_s`."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        return not self.alive

    def stop(self, grace_s: float = 10.0) -> None:
        """End it: each stop signal gets `grace_s`, then SIGKILL for it and what is left of its group."""
        for number in self.program.stop_signals:
            self.send(number)
            if self.wait(grace_s):
                break
        self.kill()

    def kill(self) -> None:
        """SIGKILL for the process and its group, and wait for the process."""
        self.send(signal.SIGKILL)
        # Also after its end, for children it left: the group id cannot be anybody else's while they live.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(10.0)


def start_child(program: Program, log: Path | None) -> Child:
    """Start `program`, its output appended to `log` (None: nowhere).

    Call it from the main thread only: the parent-death signal fires when the thread that forked ends.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("children are started from the main thread, or they would end with the thread that did it")
    argv = [sys.executable, "-I", "-S", str(LAUNCHER)]
    argv += ["--parent", str(os.getpid()), "--signal", str(int(program.death_signal)), "--as", program.way]
    if program.cwd is not None:
        argv += ["--folder", str(program.cwd)]
    argv += ["--", *program.argv]
    descriptor = _open_log(log)
    try:
        process = subprocess.Popen(
            argv,
            env=dict(program.env),
            pass_fds=program.keep,
            stdin=subprocess.PIPE if program.stdin else subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,  # Ctrl-C in a terminal reaches us alone; the order of ending is ours
        )
    finally:
        os.close(descriptor)
    if process.stdin is not None:
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(program.stdin.encode())
    return Child(program, process)


def _open_log(log: Path | None) -> int:
    if log is None:
        return os.open(os.devnull, os.O_WRONLY)
    log.parent.mkdir(parents=True, exist_ok=True)
    return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def explain_end(log: Path) -> str:
    """Why a process ended, by the end of its log, as half a sentence; empty where nothing is known."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        tail = file.read()
        for sign, meaning in KNOWN_ENDS.items():
            if sign in tail:
                return f": {meaning}"
    return ""
