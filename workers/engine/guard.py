"""Stands over a program that another process owns: it ends, with everything that it started, when that process does.

Run as a script (`python -I -S guard.py --stop-s N -- program ...`) with the standard library alone. The owner holds the
other end of its standard input; when that closes, by a call or by the owner's death, or a signal asks for it, the
program gets SIGTERM, and what is left after `--stop-s` seconds SIGKILL. What the program leaves behind becomes a child
of the guard (it is a subreaper) and is killed too, whatever process group it made for itself. Ends as the program did.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
#: Between two looks at children, and how long killed ones may take to be gone; seconds.
_LOOK_S, _GONE_S = 0.1, 10.0
#: Exit status where the program cannot be started.
NOT_STARTED = 127


def main(arguments: list[str]) -> int:
    """Start the program after `--`, and see it out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--stop-s", type=float, required=True)
    parser.add_argument("program", nargs="+")
    options = parser.parse_args(arguments)
    asked, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = start(options.program)
    status = wait(child, asked)
    if status is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGTERM)
        status = reap_until(child, time.monotonic() + options.stop_s)
    killed = end_descendants(child)
    status = killed if status is None else status
    if status is None:
        return 128 + signal.SIGKILL
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def start(program: list[str]) -> int:
    """The program's process id; it leads a session of its own and dies with the guard."""
    guard, child = os.getpid(), os.fork()
    if child:
        return child
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        if os.getppid() == guard:
            os.execvp(program[0], program)  # noqa: S606 - no shell is wanted
    except OSError as error:
        print(f"{program[0]} cannot be started: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(NOT_STARTED)


def wait(child: int, asked: int) -> int | None:
    """The program's status once it has ended; None when it is to be ended."""
    while True:
        ready, _, _ = select.select([0, asked], [], [], _LOOK_S)
        if 0 in ready and not os.read(0, 4096):
            return None
        if asked in ready and any(number != signal.SIGCHLD for number in os.read(asked, 4096)):
            return None
        status = reap(child)
        if status is not None:
            return status


def reap(child: int) -> int | None:
    """Take in who has ended; the program's status if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            found = status if pid == child else found
    return found


def reap_until(child: int, until: float) -> int | None:
    """The program's status, if it ends in time."""
    while time.monotonic() < until:
        status = reap(child)
        if status is not None:
            return status
        time.sleep(_LOOK_S / 2)
    return None


def end_descendants(child: int) -> int | None:
    """Kill whatever is left below us; the program's status if it was among them."""
    found, until = None, time.monotonic() + _GONE_S
    while (left := list_descendants(os.getpid())) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
        status = reap(child)
        found = status if status is not None else found
    return found


def list_descendants(root: int) -> list[int]:
    """Process ids below `root`, by /proc."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(folder.name))
    found, at = list(parents.get(root, [])), 0
    while at < len(found):
        found += parents.get(found[at], [])
        at += 1
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
