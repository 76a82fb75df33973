"""How much of a file is in the page cache: by cachestat where the kernel has it (Linux 6.5), else by mincore.

The kernel tells that only of files that the asker owns or may write to; of others nothing is known.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

_PAGE = mmap.PAGESIZE
#: The number of the system call, the same on every architecture.
_CACHESTAT = 451


class _Range(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class _Stat(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")]


def measure_resident(files: Iterable[Path]) -> float | None:
    """The share of some files' bytes that is in the page cache, 0 to 1; None where the kernel does not say.

    Raises OSError for a file that cannot be opened.
    """
    total = found = 0
    for path in files:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            here = count_resident(stream.fileno(), 0, size)
        if here is None:
            return None
        total, found = total + size, found + here
    return found / total if total else 1.0


def count_resident(fd: int, offset: int, length: int) -> int | None:
    """Bytes of a part of an open file that are in the page cache; None where the kernel does not say.

    `offset` must be a multiple of the page's size.
    """
    if length <= 0:
        return 0
    pages = _ask_cachestat(fd, offset, length)
    if pages is None:
        pages = _ask_mincore(fd, offset, length)
    return None if pages is None else min(length, pages * _PAGE)


def _ask_cachestat(fd: int, offset: int, length: int) -> int | None:
    libc, stat = _load_libc(), _Stat()
    if libc is None:
        return None
    wanted = _Range(offset, length)
    failed = libc.syscall(
        ctypes.c_long(_CACHESTAT), ctypes.c_uint(fd), ctypes.byref(wanted), ctypes.byref(stat), ctypes.c_uint(0)
    )
    return None if failed else int(stat.cached)


def _ask_mincore(fd: int, offset: int, length: int) -> int | None:
    """mincore calls everything resident of a file that the asker neither owns nor may write to: that says nothing."""
    libc = _load_libc()
    if libc is None or not (os.fstat(fd).st_uid == os.geteuid() or os.access(f"/proc/self/fd/{fd}", os.W_OK)):
        return None
    pages = -(-length // _PAGE)
    found = (ctypes.c_ubyte * pages)()
    try:
        # Copied on write, as ctypes wants a buffer that could be written to; nothing is.
        mapped = mmap.mmap(fd, length, access=mmap.ACCESS_COPY, offset=offset)
    except (OSError, ValueError):
        return None
    with mapped:
        start = ctypes.c_char.from_buffer(mapped)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(length), found)
        del start
    return None if failed else sum(flag & 1 for flag in found)


def _load_libc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return libc if hasattr(libc, "syscall") and hasattr(libc, "mincore") else None
    except OSError:
        return None
