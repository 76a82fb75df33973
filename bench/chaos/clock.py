"""Wall clocks that jump: a small shared object in front of the C library, whose offset is read from a file at each
call. Monotonic clocks are left alone, as they are when somebody sets a machine's clock.

It is loaded by LD_PRELOAD into processes that are started with `Clock.environment`, so that Python, Rust's UUIDv7 and
Postgres' now() are moved by the same thing, while they run.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *page;

__attribute__((constructor)) static void open_page(void) {
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED) page = found;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, which, now);
    if (page && result == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        now->tv_sec += page[0];
        page[1] = 1;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""
_OFFSET, _WHOLE = struct.Struct("q"), struct.Struct("qq")


@cache
def _build() -> tuple[Path | None, str]:
    """The shared object, or why there is none."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None, "no C compiler (cc) to build a clock that can be moved"
    folder = Path(tempfile.mkdtemp(prefix="chaos-clock-"))
    folder.chmod(0o755)
    (folder / "clock.c").write_text(_SOURCE)
    built = subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", folder / "clock.so", folder / "clock.c"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if built.returncode:
        return None, f"the clock that can be moved could not be compiled: {built.stderr.strip()[:200]}"
    return folder / "clock.so", ""


def find_reason_against_clocks() -> str | None:
    """Why no clock can be moved here, or None."""
    return _build()[1] or None


class Clock:
    """The wall clock of the processes that are started with `environment`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(_WHOLE.pack(0, 0))
        path.chmod(0o666)  # Postgres may be another user

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to have this clock."""
        library = _build()[0]
        return {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._path)} if library else {}

    def set(self, offset_s: int) -> None:
        """Move it to that many seconds from the machine's."""
        with self._path.open("r+b") as file:
            file.write(_OFFSET.pack(offset_s))

    def was_read(self) -> bool:
        """Whether any process has looked at it."""
        return bool(_WHOLE.unpack(self._path.read_bytes())[1])
