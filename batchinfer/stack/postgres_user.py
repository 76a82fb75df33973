"""Postgres refuses to run as root: it runs in a user namespace, or else as the user nobody."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from batchinfer.errors import StartError
from batchinfer.stack.children import Program, Way, start_child

if TYPE_CHECKING:
    from pathlib import Path

NOTES = {
    "namespace": "Postgres runs in a user namespace of its own, because it refuses to run as root.",
    "nobody": "Postgres runs as the user nobody: it refuses to run as root, and namespaces are refused here.",
    "passing": "Postgres runs as the user nobody, who may pass through closed folders: it refuses to run as root, "
    "and namespaces are refused here.",
}


def choose_way(postgres: Path, home: Path) -> Way:
    """How the server stops being root on this machine. Raises StartError where there is no way."""
    if os.geteuid() != 0:
        return "self"
    if _works("namespace", postgres, home):
        return "namespace"
    let_all_pass(home)
    ways: tuple[Way, ...] = ("nobody", "passing")
    for way in ways:
        if _works(way, postgres, home):
            return way
    raise StartError(
        "Postgres refuses to run as root, user namespaces are refused here, and the user nobody may not "
        "enter the home or the installed packages. Run as a plain user, or choose a --home and a virtual "
        "environment that all may enter."
    )


def let_all_pass(folder: Path) -> None:
    """Let every user pass through a folder, not list it; what is secret in it is 0600."""
    folder.chmod(folder.stat().st_mode | 0o011)


def give_to(uid: int, path: Path) -> None:
    """Make a file, or a folder and all in it, belong to the user and group of number `uid`."""
    if path.stat().st_uid == uid:
        return
    for found in [path, *(path.rglob("*") if path.is_dir() else [])]:
        os.chown(found, uid, uid, follow_symlinks=False)


def _works(way: Way, postgres: Path, home: Path) -> bool:
    """Try it: the server's `--version`, started in the home."""
    child = start_child(
        Program(role="postgres", name="probe", argv=[str(postgres), "--version"], way=way, cwd=home), None
    )
    child.wait(10.0)
    child.kill()
    return child.process.returncode == 0
