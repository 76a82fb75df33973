"""How fast a folder is read: one large file and many shards at once, cold and from the page cache.

    figures = measure(Path("/data/models"), mib=1024, tell=print)

Cold means that the kernel was asked to drop the file's pages (POSIX_FADV_DONTNEED); a disk, or a host behind a
hypervisor, may still hold them in a cache of its own.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Shards of the second measurement, each read by a thread of its own; bytes of one read.
SHARDS, PIECE = 8, 8 * 2**20
LEAST_MIB, MOST_MIB = 64, 65_536


@dataclass(frozen=True)
class Storage:
    """Rates in MiB a second, of files of `mib` MiB in all."""

    mib: int
    written: float
    cold: float
    warm: float
    cold_shards: float
    warm_shards: float

    def estimate_load_s(self, model_mib: float) -> float:
        """Seconds that reading weights of so many MiB takes from cold, shard by shard at once."""
        return model_mib / self.cold_shards


def measure(folder: Path, *, mib: int, tell: Callable[[str], None]) -> Storage:
    """Write files into a folder of its own there, read them, and remove them whatever happens.

    Raises BadRequest where the folder is none, may not be written, or has no room for it.
    """
    if not folder.is_dir():
        raise BadRequest("There is no such folder. Name one that exists.", param="dir")
    free_mib = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize // 2**20
    if free_mib < mib + LEAST_MIB:
        raise BadRequest(f"{mib} MiB do not fit: {free_mib} MiB are free. Ask for less with --mib.", param="mib")
    try:
        scratch = tempfile.TemporaryDirectory(prefix=".batchinfer-doctor-", dir=folder)
    except OSError:
        raise BadRequest(
            "This folder may not be written by you. Name another, or ask its owner.", param="dir"
        ) from None
    with scratch as name:
        shards = [Path(name) / f"shard-{number}" for number in range(SHARDS)]
        tell(f"writing {mib} MiB")
        written = _rate(mib, lambda: _write(shards, mib))
        rates = []
        for what, threads in (("one after the other", 1), (f"{SHARDS} at once", SHARDS)):
            for cold in (True, False):
                tell(f"reading, {what}, {'cold' if cold else 'from the page cache'}")
                if cold:
                    _forget(shards)
                rates.append(_rate(mib, lambda threads=threads: _read(shards, threads)))  # type: ignore[misc]
    return Storage(mib, written, *rates)


def _rate(mib: int, act: Callable[[], None]) -> float:
    began = time.monotonic()
    act()
    return mib / max(time.monotonic() - began, 1e-6)


def _write(shards: Sequence[Path], mib: int) -> None:
    # Bytes that no file system compresses away; the same MiB again and again would do for none that finds copies.
    for shard in shards:
        with shard.open("wb") as file:
            for _ in range(mib // len(shards)):
                file.write(os.urandom(2**20))
            file.flush()
            os.fsync(file.fileno())


def _forget(shards: Sequence[Path]) -> None:
    for shard in shards:
        with shard.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(shards: Sequence[Path], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_read_one, shards))


def _read_one(shard: Path) -> None:
    room = bytearray(PIECE)
    with shard.open("rb", buffering=0) as file:
        while file.readinto(room):
            pass
