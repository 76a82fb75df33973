"""The folder of everything that this host keeps (docs/home.md), held by one `up` at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from batchinfer.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

#: A fresh cluster takes 40 MiB, its log of changes up to 512 MiB; below this a start would only fail later.
LEAST_FREE_MIB = 256


class Home:
    """The folder, once it is ours. Raises StartError where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def open(self) -> None:
        """Make the folder, see that it can be written and has space, and take its lock."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            for name in ("blobs", "logs", "models"):
                (self.path / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartError(
                f"The home {self.path} cannot be used: {os.strerror(error.errno or 0)}. "
                "Choose another with --home or BATCHINFER_HOME."
            ) from None
        free_mib = shutil.disk_usage(self.path).free // 2**20
        if free_mib < LEAST_FREE_MIB:
            raise StartError(
                f"The disk of the home {self.path} has {free_mib} MiB free, {LEAST_FREE_MIB} MiB are needed. "
                "Free some space, or choose another with --home."
            )

    def close(self) -> None:
        """Let others have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read_secret(self, name: str) -> str | None:
        """What a file of secrets holds, or None."""
        with suppress(FileNotFoundError):
            return (self.path / name).read_text().strip() or None
        return None

    def keep_secret(self, name: str, text: str) -> None:
        """Write a file that only its owner may read, whole or not at all."""
        write_private(self.path / name, text + "\n")

    def forget(self, name: str) -> None:
        """Remove a file that `keep_secret` wrote."""
        (self.path / name).unlink(missing_ok=True)

    def make_secret(self, name: str) -> str:
        """The secret of that name; made at random the first time."""
        found = self.read_secret(name)
        if found is None:
            found = secrets.token_urlsafe(48)
            self.keep_secret(name, found)
        return found

    def _take_lock(self) -> None:
        """A lock of the kernel, not a file that must be removed: it ends with the process that holds it."""
        descriptor = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise StartError(
                f"Another `batchinfer up` (process {holder}) runs in the home {self.path}. "
                f"Stop it first (kill {holder}), or choose another with --home."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor


def write_private(path: Path, text: str) -> None:
    """Replace a file by one with this text that only its owner may read; readers see the old or the new."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    beside.replace(path)
