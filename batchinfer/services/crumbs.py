"""Breadcrumbs: which rows a worker is at right now, in a small file that outlives the process.

Written through shared memory, so that `kill -9` leaves it as it was. Whoever ends the lease of a lost worker on the
same host narrows the suspects with it; without a readable file every row that the lease held is one.
"""

from __future__ import annotations

import mmap
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"batchinfer crumb"
_FULL = b"batchinfer full!"
_ID_BYTES = 16
_NONE = bytes(_ID_BYTES)
#: What a lost worker leaves is read when its lease ends, which is soon.
_KEEP_S = 7 * 86400.0


class Crumbs:
    """The file of one process, renewed with each lease. Safe for threads; nothing here ever stops the work."""

    def __init__(self, folder: Path | None = None, places: int = 0) -> None:
        """`places` ids at once in a file under `folder`; without a folder nothing is noted."""
        self._folder, self._places = folder, places
        self._lock = threading.Lock()
        self._memory: mmap.mmap | None = None
        self._lease_id: UUID | None = None
        self._at: dict[UUID, int] = {}
        self._free: list[int] = []

    def begin(self, lease_id: UUID) -> None:
        """Note under this lease from now on. Where no file can be made, nothing is noted."""
        with self._lock:
            if self._folder is not None and lease_id != self._lease_id:
                self._close()
                with suppress(OSError):
                    self._open(self._folder, lease_id)

    def enter(self, row_id: UUID) -> None:
        """Work on a row begins."""
        with self._lock:
            if self._memory is None or row_id in self._at:
                return
            if not self._free:
                self._memory[:_ID_BYTES] = _FULL  # more than there is room for: readers must suspect them all
                return
            place = self._free.pop()
            self._at[row_id] = place
            self._memory[place : place + _ID_BYTES] = row_id.bytes

    def leave(self, row_id: UUID) -> None:
        """It has ended."""
        with self._lock:
            place = self._at.pop(row_id, None)
            if self._memory is not None and place is not None:
                self._memory[place : place + _ID_BYTES] = _NONE
                self._free.append(place)

    def close(self) -> None:
        """An orderly end: nothing is left that anybody could be suspected of."""
        with self._lock:
            self._close()

    def _open(self, folder: Path, lease_id: UUID) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        size = _ID_BYTES * (self._places + 1)
        with _find_file(folder, lease_id).open("w+b") as file:
            file.truncate(size)
            self._memory = mmap.mmap(file.fileno(), size)
        self._memory[:_ID_BYTES] = _MAGIC
        self._free = list(range(_ID_BYTES, size, _ID_BYTES))
        self._lease_id = lease_id

    def _close(self) -> None:
        if self._folder is not None and self._memory is not None and self._lease_id is not None:
            self._memory.close()
            _find_file(self._folder, self._lease_id).unlink(missing_ok=True)
        self._memory, self._lease_id, self._at, self._free = None, None, {}, []


def read_crumbs(folder: Path, lease_id: UUID) -> frozenset[UUID] | None:
    """The rows that a worker was at under a lease when it last wrote. None: nobody here can know."""
    try:
        whole = _find_file(folder, lease_id).read_bytes()
    except OSError:
        return None
    if whole[:_ID_BYTES] != _MAGIC or len(whole) % _ID_BYTES:
        return None
    ids = (whole[at : at + _ID_BYTES] for at in range(_ID_BYTES, len(whole), _ID_BYTES))
    return frozenset(UUID(bytes=row_id) for row_id in ids if row_id != _NONE)


def sweep_crumbs(folder: Path) -> int:
    """Remove what workers left that were lost days ago. Answers how many files."""
    swept = 0
    with suppress(FileNotFoundError):
        for file in folder.iterdir():
            with suppress(OSError):
                if file.stat().st_mtime < time.time() - _KEEP_S:
                    file.unlink()
                    swept += 1
    return swept


def _find_file(folder: Path, lease_id: UUID) -> Path:
    return folder / lease_id.hex
