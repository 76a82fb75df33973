"""The last step before a child becomes its program: ask for a signal when the parent dies, change user, exec.

Run as a script (`python -I -S launch.py …`), so it needs nothing but the standard library. The kernel forgets
the parent-death signal when a process changes its credentials, therefore the order: namespace or user first,
then the signal, then exec, which keeps it. The signal is tied to the thread that forked; children.py sees to
that.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAPABILITY_VERSION = 0x20080522
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
CLONE_NEWUSER = 0x10000000
#: The uid and gid `nobody` of every Linux; what a process in our user namespace believes to be.
NOBODY = 65534
#: Exit status where the change of user or namespace is refused.
REFUSED = 125


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, first: int, second: int = 0) -> None:
    if _libc().prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def ask_for_death_signal(signal_number: int) -> None:
    """Have the kernel send `signal_number` to this process when the thread that started it ends."""
    _prctl(PR_SET_PDEATHSIG, signal_number)


def enter_user_namespace() -> None:
    """Leave uid 0 for `nobody` inside a namespace of our own; files still belong to the user outside."""
    uid, gid = os.geteuid(), os.getegid()
    if _libc().unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")


def become_nobody(keep: int = 0) -> None:
    """Give root up for good, except for the capability with the number `keep`, which survives exec; 0 keeps none."""
    if keep:
        _prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    if keep:
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
        # Effective, permitted, inheritable; then the same for the numbers from 32 on.
        sets = (ctypes.c_uint32 * 6)(1 << keep, 1 << keep, 1 << keep, 0, 0, 0)
        if _libc().capset(header, sets) != 0:
            raise OSError(ctypes.get_errno(), "capset")
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, keep)


def find_passing_capability() -> int:
    """The least capability we have that passes through closed folders. Raises PermissionError where there is none."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapPrm"))
    ours = int(line.split()[1], 16)
    for number in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if ours >> number & 1:
            return number
    raise PermissionError("no such capability")


def change_user(way: str) -> None:
    """Stop being who we are, in one of the ways of `--as`. Raises OSError where that is refused."""
    if way == "namespace":
        enter_user_namespace()
    elif way == "nobody":
        become_nobody()
    elif way == "passing":
        become_nobody(keep=find_passing_capability())


def main(arguments: list[str]) -> int:
    """Prepare this process and replace it by the program after `--`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--signal", type=int, required=True)
    parser.add_argument("--as", dest="way", choices=["self", "namespace", "nobody", "passing"], default="self")
    parser.add_argument("--folder")
    parser.add_argument("program", nargs="+")
    options = parser.parse_args(arguments)
    try:
        change_user(options.way)
        if options.folder:
            os.chdir(options.folder)
    except OSError:
        return REFUSED
    ask_for_death_signal(options.signal)
    if os.getppid() != options.parent:  # the parent was gone before the signal was asked for
        return REFUSED
    try:
        os.execv(options.program[0], options.program)  # noqa: S606 - no shell is wanted
    except OSError:
        return REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
