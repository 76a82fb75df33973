"""Who may use the folders of the home: permissions, and SELinux's labels of what is mounted."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from batchinfer.doctor.findings import Check, fail, fine, skip, warn

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.doctor.findings import Look, Said

#: Types of labels that a container may write (container-selinux; the second is its older name).
CONTAINER_TYPES = frozenset({"container_file_t", "svirt_sandbox_file_t"})
_OWNED = (
    "Give the home to the user that runs the service (`chown -R`); for a mounted volume, to the container's user "
    "(`user:`, `fsGroup`)."
)
#: Types of processes in containers.
_CONFINED = ("container_t", "container_init_t", "container_kvm_t", "svirt_lxc_net_t", "spc_t")


def list_folders(look: Look) -> list[Path]:
    """Those of the home that are there: the home itself, blobs, models, logs. Raises PermissionError where the folder
    above them may not be entered, so that nobody can say."""
    settings = look.settings
    wanted = (settings.home, settings.blobs_dir, settings.models_dir, settings.logs_dir)
    return [folder for folder in wanted if _is_folder(folder)]


def _is_folder(place: Path) -> bool:
    try:
        return stat.S_ISDIR(place.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def check_permissions(look: Look) -> Said:
    """Whether this user may use the home, and others may not change it."""
    try:
        folders = list_folders(look)
    except PermissionError:
        return fail("This user may not enter the folder in which the home lies.", _OWNED)
    if not folders:
        return skip("There is no home here yet; the first start makes it, for its owner alone.")
    closed = [folder.name for folder in folders if not look.may_use(folder)]
    if closed:
        return fail(
            f"This user may not write {', '.join(closed)} of the home.",
            _OWNED,
        )
    modes = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in folders}
    wide = [folder.name for folder, mode in modes.items() if mode & 0o002]
    if wide:
        return fail(
            f"Every user of this host may change {', '.join(wide)} of the home.", "Take it from them: `chmod -R o-w`."
        )
    blobs = look.settings.blobs_dir
    passable = modes.get(look.settings.home, 0) & 0o001
    if passable and modes.get(blobs, 0) & 0o005:
        return warn("Every user of this host may read users' files (blobs).", "Take it from them: `chmod o-rwx`.")
    return fine("The home is its owner's.")


def check_labels(look: Look) -> Said:
    """SELinux's labels of the folders of the home."""
    enforces = look.read("sys/fs/selinux/enforce")
    if enforces not in {None, "0", "1"}:
        return skip("Not known: SELinux says neither that it enforces nor that it does not.")
    if enforces != "1":
        return skip("SELinux does not run here, or enforces nothing.")
    folders = list_folders(look)
    if not folders:
        return skip("There is no home here yet.")
    types = {folder.name: _read_type(look.label(folder)) for folder in folders}
    process = _read_type((look.read("proc/self/attr/current") or "").strip("\x00"))
    if not process:
        return skip("Not known: SELinux enforces, and the kernel does not show the label of this process.")
    if process in _CONFINED and process != "spc_t":
        wrong = [f"{name} ({kind or 'no label'})" for name, kind in types.items() if kind not in CONTAINER_TYPES]
        if wrong:
            return fail(
                f"SELinux keeps containers off {', '.join(wrong)}.",
                "Mount it with `:Z` (this container alone) or `:z` (several), or label it: "
                "`semanage fcontext -a -t container_file_t 'FOLDER(/.*)?'` and `restorecon -R FOLDER`.",
            )
        return fine("SELinux lets this container use the home.")
    bare = [name for name, kind in types.items() if kind in {"", "unlabeled_t"}]
    if bare:
        return warn(f"{', '.join(bare)} of the home has no label of SELinux.", "Give it one: `restorecon -R FOLDER`.")
    return fine(f"SELinux enforces; the home is {', '.join(sorted(set(types.values())))}.")


def _read_type(label: str) -> str:
    """The third part of user:role:type:level."""
    parts = label.split(":")
    kind = parts[2] if len(parts) > 2 else ""
    return kind if kind.isascii() and kind.isidentifier() else ""


FOLDER_CHECKS = (
    Check("permissions", "storage", "Who may not write loses results; who may write changes them.", check_permissions),
    Check("SELinux labels", "storage", "A mounted folder with another label can be seen and not used.", check_labels),
)
