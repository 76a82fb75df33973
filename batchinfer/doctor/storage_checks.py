"""Where weights, blobs and the database of this host lie: kind of file system, options, disk, room."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batchinfer.doctor.findings import Check, fail, fine, skip, warn
from batchinfer.doctor.mounts import FAR, FAST, IN_MEMORY, LAYERED, find_mount, is_windows

if TYPE_CHECKING:
    from batchinfer.doctor.findings import Look, Said

#: Free shares below which it is said, and below which writing may fail tonight.
SCARCE, EMPTY = 0.10, 0.02
_GIB = 2**30


def check_kind(look: Look) -> Said:
    """The kind of file system under the models."""
    mount = find_mount(look, look.models_folder)
    if mount is None:
        return skip("The kernel does not say where the models lie.")
    if is_windows(mount):
        return warn(
            f"Models lie on a folder of Windows ({mount.point}).",
            "Move them below /home of the Linux distribution: its ext4 is read without the 9P protocol.",
        )
    if mount.kind in FAR:
        return warn(
            f"Models lie on {mount.kind}: between them and this host is {FAR[mount.kind]}.",
            "Keep them on a local ext4 or xfs, or measure with `batchinfer doctor storage DIR` what a load costs.",
        )
    if mount.kind in LAYERED:
        return warn(
            f"Models lie in the layers of a container ({mount.kind}) and go with it.",
            "Mount a volume of the host at the home, so that models outlive the container. It is no faster to read.",
        )
    if mount.kind in IN_MEMORY:
        return warn(
            f"Models lie in memory ({mount.kind}): they take it from the models that run, and a reboot loses them.",
            "Keep them on a disk; the page cache holds them in memory as long as there is room.",
        )
    if mount.kind in FAST:
        return fine(f"Models lie on {mount.kind} ({mount.point}).")
    return skip(f"Models lie on {mount.kind}, of which nothing is known here.")


def check_access_times(look: Look) -> Said:
    """Whether each read writes."""
    mount = find_mount(look, look.models_folder)
    if mount is None:
        return skip("The kernel does not say how the models are mounted.")
    if mount.options & {"noatime", "relatime"}:
        return fine("Reading writes no time of access, or one a day.")
    return warn(
        "Each read of a model writes the time of access.", f"Mount {mount.point} with noatime, or with relatime."
    )


def check_scheduler(look: Look) -> Said:
    """The I/O scheduler of the disk under the models."""
    mount = find_mount(look, look.models_folder)
    if mount is None or mount.device.startswith("0:"):
        return skip("The models lie on no disk of this host that can be asked.")
    device = look.root / "sys/dev/block" / mount.device
    # A partition has no queue of its own; its disk is the folder above what the link leads to.
    queue = next((place for place in (device / "queue", device.resolve().parent / "queue") if place.is_dir()), None)
    if queue is None:
        return skip("The disk under the models does not show its queue.")
    chosen = _read_chosen((queue / "scheduler").read_text(errors="replace").split())
    turns = (queue / "rotational").read_text(errors="replace").strip()
    if chosen is None or turns not in {"0", "1"}:
        return skip("Not known: the queue of the disk under the models is in no form that is known here.")
    spinning = turns == "1"
    if not spinning and chosen in {"bfq", "cfq"}:
        return warn(
            f"The disk has no moving parts, and its requests are ordered by {chosen}.",
            f"Set `none` or `mq-deadline` (sysfs, a udev rule): {chosen} costs time for each request.",
        )
    return fine(f"Requests are ordered by {chosen}; the disk {'turns' if spinning else 'has no moving parts'}.")


def _read_chosen(words: list[str]) -> str | None:
    """`[none] mq-deadline`; a queue that knows one way alone says it without brackets."""
    marked = [word[1:-1] for word in words if word.startswith("[") and word.endswith("]")]
    named = marked or (words if len(words) == 1 else [])
    return named[0] if len(named) == 1 and named[0].replace("-", "").isalpha() else None


def check_room(look: Look) -> Said:
    """Bytes and inodes that are free under the home."""
    place = find_nearest(look.settings.home)
    found = look.room(place)
    if not found.f_blocks:
        return skip("The file system of the home does not say how large it is.")
    free = found.f_bavail / found.f_blocks
    inodes = found.f_favail / found.f_files if found.f_files else 1.0
    said = f"{found.f_bavail * found.f_frsize / _GIB:.1f} GiB free ({free:.0%}), {inodes:.0%} of the inodes"
    remedy = (
        "Remove models with `batchinfer models prune`, shorten keep_days, or give the home a larger disk. Containers "
        "and images that nobody uses take inodes: `docker system prune`."
    )
    if min(free, inodes) < EMPTY:
        return fail(f"The home is nearly full: {said}.", remedy)
    if min(free, inodes) < SCARCE:
        return warn(f"The home fills up: {said}.", remedy)
    return fine(f"{said}.")


def check_shared_memory(look: Look) -> Said:
    """The room of /dev/shm, through which the processes of one engine talk."""
    place = look.root / "dev/shm"
    if not place.is_dir():
        return skip("There is no /dev/shm here.")
    found = look.room(place)
    if not found.f_blocks:
        return skip("Shared memory does not say how large it is.")
    mib = found.f_blocks * found.f_frsize // 2**20
    if mib < 1024:
        return warn(
            f"Shared memory has room for {mib} MiB.",
            "Give a container more (`shm_size: 1gb`, an emptyDir of medium Memory): vLLM over several cards needs it.",
        )
    return fine(f"Shared memory has room for {mib} MiB.")


def find_nearest(path: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    return next((place for place in (path, *path.parents) if place.exists()), Path("/"))


STORAGE_CHECKS = (
    Check("file system of the models", "storage", "It decides how long a cold start reads.", check_kind),
    Check("times of access", "storage", "A read that writes costs the disk twice.", check_access_times),
    Check("I/O scheduler", "storage", "It orders the large reads of a load.", check_scheduler),
    Check("room of the home", "storage", "Full disks stop Postgres, uploads and fetches.", check_room),
    Check("shared memory", "storage", "Engines over several processes exchange tensors there.", check_shared_memory),
)
