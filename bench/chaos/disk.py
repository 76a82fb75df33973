"""A small disk of our own: tmpfs in a mount namespace of this process, which nobody else sees."""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CLONE_NEWNS = 0x00020000


@cache
def find_reason_against_mounts() -> str | None:
    """Why nothing can be mounted here, or None. Where it can, this process leaves the machine's mount namespace.

    Call it from the main thread: its children see what it mounts.
    """
    if os.geteuid() != 0:
        return "only root may mount a small disk, and this is not root"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        return f"a mount namespace is refused here: {os.strerror(ctypes.get_errno())}"
    made = subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, text=True, check=False)
    return f"mounts cannot be made private here: {made.stderr.strip()}" if made.returncode else None


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A tmpfs of that size (as mount takes it, for example 8m) at `folder`, gone afterwards with all in it."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
