"""On which file system a folder lies, by /proc/self/mountinfo (proc(5)), and what that means for weights."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.doctor.findings import Look

_ESCAPE = re.compile(r"\\([0-7]{3})")
#: Kinds that read large files as fast as their disk.
FAST = frozenset({"ext4", "ext3", "xfs", "btrfs", "zfs", "f2fs", "bcachefs"})
#: Folders of another machine or of Windows, each with what stands between.
FAR = {
    "9p": "the 9P protocol to Windows or to a hypervisor",
    "drvfs": "the 9P protocol to Windows",
    "virtiofs": "a hypervisor",
    "fuse.sshfs": "SSH",
    "fuse": "a program in user space",
    "nfs": "the network",
    "nfs4": "the network",
    "cifs": "the network",
    "smb3": "the network",
    "ceph": "the network",
    "lustre": "the network",
}
#: Kinds that hold what they hold in memory.
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
#: Layers of containers.
LAYERED = frozenset({"overlay", "overlay2", "aufs", "fuse.fuse-overlayfs"})


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. `device` is major:minor; `options` are those of the mount and of its file system."""

    point: str
    kind: str
    source: str
    device: str
    options: frozenset[str]


def read_mounts(look: Look) -> list[Mount]:
    """The mounts of this process, in their order; none where it shows none. Broken lines are left out."""
    mounts = []
    for line in (look.read("proc/self/mountinfo") or "").splitlines():
        before, dash, after = line.partition(" - ")
        fields, behind = before.split(), after.split()
        if not dash or len(fields) < 6 or len(behind) < 2:
            continue
        options = set(fields[5].split(",")) | set(behind[2].split(",") if len(behind) > 2 else ())
        mounts.append(Mount(_unescape(fields[4]), behind[0], _unescape(behind[1]), fields[2], frozenset(options)))
    return mounts


def find_mount(look: Look, path: Path) -> Mount | None:
    """The mount that holds a path: of those above it the longest, and of equals the last, which covers the others."""
    wanted = os.path.realpath(path)
    best: Mount | None = None
    for mount in read_mounts(look):
        holds = mount.point == "/" or wanted == mount.point or wanted.startswith(mount.point + "/")
        if holds and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def is_windows(mount: Mount) -> bool:
    """Whether it is a folder of Windows in WSL."""
    return mount.kind == "drvfs" or (mount.kind == "9p" and any("drvfs" in option for option in mount.options))


def _unescape(text: str) -> str:
    """A name as it is: spaces and the like stand as three octal digits there."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
