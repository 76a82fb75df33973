"""Bring a model's weights into the page cache, as fast as the disk gives them: many large reads at once.

    python -m workers.engine.warming DIR [--json]

A loader that maps the files meets one page after the other, and waits for each where the kernel does not read far
ahead. Here threads ask for pieces of some MiB, so that the disk has a queue. What is in the page cache serves every
replica of the host, and the next start after a crash. Needs neither torch nor transformers; the last line of output is
one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from workers.engine.folder import check_folder
from workers.engine.protocol import ModelError
from workers.engine.residency import count_resident, measure_resident

_log = logging.getLogger(__name__)

#: Reads under way at once, and what each asks for, in bytes.
THREADS, PIECE = 8, 4 * 2**20
#: Of the memory that is available, the share that weights may take: more would push out what was read first.
MEMORY_SHARE = 0.8
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Warmed:
    """What was done. Shares are 0 to 1, None where the kernel does not say; `read_bytes` were not resident before.

    `ended_at` is on `time.monotonic()`. `note` says why nothing, or not everything, was read.
    """

    total_bytes: int
    read_bytes: int
    seconds: float
    resident_before: float | None
    resident_after: float | None
    ended_at: float
    note: str | None = None

    @property
    def mib_per_s(self) -> float:
        """The rate of the reads, in MiB a second; 0 where nothing was read."""
        return self.read_bytes / 2**20 / self.seconds if self.read_bytes and self.seconds else 0.0

    def as_json(self) -> dict[str, object]:
        """As plain data."""
        data = asdict(self) | {"seconds": round(self.seconds, 3), "mib_per_s": round(self.mib_per_s, 1)}
        del data["ended_at"]
        return data


class Warming:
    """A warming under way on a thread of its own."""

    def __init__(self, files: Sequence[Path], *, threads: int = THREADS) -> None:
        self._files, self._threads = list(files), threads
        self._stopping = threading.Event()
        self._result = Warmed(0, 0, 0.0, None, None, time.monotonic())
        self._thread = threading.Thread(target=self._run, name="warming", daemon=True)
        self._thread.start()

    def wait(self) -> Warmed:
        """Until all is read. Answers what was done; a file that could not be read is in its note."""
        self._thread.join()
        return self._result

    def stop(self) -> None:
        """Read no further. Returns when no read is under way any more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._result = warm(self._files, threads=self._threads, stopping=self._stopping)
        except Exception as error:
            _log.warning("weights could not be read ahead", exc_info=True)
            note = f"reading ended early ({type(error).__name__})"
            self._result = Warmed(0, 0, 0.0, None, None, time.monotonic(), note)


def warm(files: Sequence[Path], *, threads: int = THREADS, stopping: threading.Event | None = None) -> Warmed:
    """Read files into the page cache, in their order; what is there already is left alone. Raises OSError.

    Nothing is read where it would not fit beside what runs: then it would only push itself out again.
    """
    began = time.monotonic()
    total = sum(path.stat().st_size for path in files)
    before, note, read = measure_resident(files), None, 0
    room = find_room()
    missing = total if before is None else round(total * (1 - before))
    if room is not None and missing > room:
        note = f"{missing >> 20} MiB would not fit into the {room >> 20} MiB of memory that may be used for it"
    elif missing:
        read = _read_all(files, threads, stopping or threading.Event())
        note = "stopped before the end" if stopping is not None and stopping.is_set() else None
    ended = time.monotonic()
    return Warmed(total, read, ended - began, before, measure_resident(files), ended, note)


def find_room() -> int | None:
    """Bytes of memory that weights may take in the page cache; None where the platform does not say."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines() if ":" in line)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):  # no group, or `max`
        free = min(free, int(_CGROUP.read_text()))
    return int(free * MEMORY_SHARE)


def _read_all(files: Sequence[Path], threads: int, stopping: threading.Event) -> int:
    """Bytes that were read. Every file is open until all are read, as pieces of the next follow the last of one."""
    opened = [os.open(path, os.O_RDONLY) for path in files]
    own = threading.local()

    def read(piece: tuple[int, int]) -> int:
        if stopping.is_set():
            return 0
        if not hasattr(own, "buffer"):
            own.buffer = bytearray(PIECE)
        return _read_piece(*piece, own.buffer)

    pieces = [(fd, offset) for fd in opened for offset in range(0, os.fstat(fd).st_size, PIECE)]
    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="warming") as pool:
            return sum(pool.map(read, pieces))
    finally:
        for fd in opened:
            os.close(fd)


def _read_piece(fd: int, offset: int, buffer: bytearray) -> int:
    """Bytes read from the disk: none where the whole piece is in the page cache."""
    length = min(PIECE, os.fstat(fd).st_size - offset)
    if count_resident(fd, offset, length) == length:
        return 0
    # The whole piece is asked for at once; the copy then waits for it and meets what errors the disk has.
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)
    view, done = memoryview(buffer), 0
    while done < length:
        got = os.preadv(fd, [view[: length - done]], offset + done)
        if not got:
            break
        done += got
    return done


def describe(name: str, done: Warmed) -> str:
    """What was done, for people."""
    shares = " and ".join(
        f"{'not known' if share is None else f'{share:.0%}'} {when}"
        for share, when in ((done.resident_before, "before"), (done.resident_after, "after"))
    )
    read = f"{done.read_bytes / 2**20:,.0f} of {done.total_bytes / 2**20:,.0f} MiB read in {done.seconds:.2f} s"
    rate = f" ({done.mib_per_s:,.0f} MiB/s)" if done.read_bytes else ""
    note = f"; {done.note}" if done.note else ""
    return f"{name}: {read}{rate}; in the page cache: {shares}{note}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0 where everything is in the page cache, or was read, else 1."""
    parser = argparse.ArgumentParser(prog="python -m workers.engine.warming", description="Read weights ahead.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    given = parser.parse_args(arguments)
    try:
        done = warm(check_folder(given.folder).weights)
    except (ModelError, OSError) as error:
        said = error.message if isinstance(error, ModelError) else f"cannot be read: {error.strerror}"
        if not given.json:
            sys.stdout.write(f"{given.folder.name}: {said}\n")
        sys.stdout.write(json.dumps({"error": said}) + "\n")
        return 1
    if not given.json:
        sys.stdout.write(describe(given.folder.name, done))
    sys.stdout.write(json.dumps(done.as_json()) + "\n")
    return 1 if done.note else 0


if __name__ == "__main__":
    sys.exit(main())
