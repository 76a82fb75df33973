"""A limited process as its parent sees it: started, asked one thing at a time, killed when it is late."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

#: A new process has so long to say that it is ready; it takes about 0.2 s where the machine is idle.
START_TIMEOUT_S = 60.0
#: A task is one line of at most so many bytes: a pipe takes it whole, so writing never blocks.
_MAX_LINE_BYTES = 60_000
#: An answer may hold the text of a page, each character of which is written as up to 12 bytes.
_MAX_ANSWER_BYTES = 4 << 20


class ProcessDied(Exception):
    """The process ended before it answered."""


class ProcessHung(Exception):
    """The process did not answer in time."""


class LimitedProcess:
    """One `python -m batchinfer.media.child`. Not safe for threads: whoever holds it asks it."""

    def __init__(self, memory_mib: int, timeout_s: float) -> None:
        """Start the process. The kernel kills it when the thread that runs this line ends."""
        self.tasks = 0
        #: The file that it opened last; its document may still be open.
        self.source: str | None = None
        self._timeout_s = timeout_s
        self._ready = False
        self._rest = b""
        command = [sys.executable, "-P", "-s", "-m", "batchinfer.media.child", f"--parent={os.getpid()}"]
        command += [f"--memory-mib={memory_mib}", f"--cpu-s={math.ceil(timeout_s)}"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env=_environment(),
            start_new_session=True,  # Ctrl-C at a terminal is the parent's to handle
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Wait until the process has started. Raises ProcessDied and ProcessHung."""
        if not self._ready:
            self._read_line(START_TIMEOUT_S)
            self._ready = True

    def ask(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Give one task and wait for its answer. Raises ProcessDied and ProcessHung; kill it after either."""
        line = json.dumps({"operation": operation, "arguments": arguments}).encode() + b"\n"
        if len(line) > _MAX_LINE_BYTES:
            raise ValueError("a task is one line of at most 60,000 bytes")
        self.tasks += 1
        self.source = arguments.get("source")
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ProcessDied from None
        try:
            answer = json.loads(self._read_line(self._timeout_s))
        except ValueError:
            raise ProcessDied from None
        if not isinstance(answer, dict) or not answer.keys() & {"result", "error", "memory"}:
            raise ProcessDied  # nothing of ours answers so: it is no longer our program
        return answer

    def kill(self) -> None:
        """End the process at once. Safe from any thread: one that waits for an answer sees ProcessDied."""
        self._process.kill()

    def close(self) -> None:
        """End the process at once and forget it. Safe to call twice."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _read_line(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        handle = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while b"\n" not in self._rest:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise ProcessHung
            chunk = os.read(handle, 65536)
            if not chunk or len(self._rest) > _MAX_ANSWER_BYTES:
                raise ProcessDied
            self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        return line


def _environment() -> dict[str, str]:
    """Where Python finds things, and nothing else: no address of a database, no key."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONHOME") if name in os.environ}
    package_parent = str(Path(__file__).resolve().parents[2])
    search = [package_parent, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**kept, "PYTHONPATH": os.pathsep.join(search), "PYTHONUTF8": "1"}
