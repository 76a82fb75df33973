"""The processes of a cluster: what is wanted, how each is doing, and its way to the two servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.chaos.proxy import Proxy

PATIENCE_S = 90.0


@dataclass
class Link:
    """The way of one process to the two servers."""

    database: Proxy
    redis: Proxy

    def mend(self) -> None:
        """Let all pass."""
        self.database.mend()
        self.redis.mend()


@dataclass
class Member:
    """A process that is wanted. `supervised`: its end is reported and it is started again."""

    name: str
    role: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    supervised: bool = True
    #: Descriptors that it takes over.
    keep: Sequence[int] = ()
    popen: subprocess.Popen[bytes] | None = None
    start_at_s: float = 0.0
    #: Exit statuses, in order; negative for a signal.
    ends: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The process id of the present or last run."""
        assert self.popen is not None
        return self.popen.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.popen is not None and self.popen.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it is still there."""
        if self.popen is not None and self.popen.poll() is None:
            self.popen.send_signal(number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Its exit status."""
        assert self.popen is not None
        return self.popen.wait(timeout_s)

    def list_tree(self) -> list[int]:
        """Its process id and those of its children (the serving process of gunicorn)."""
        with suppress(OSError):
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            return [self.pid, *map(int, children)]
        return [self.pid]

    def read_events(self) -> list[dict[str, Any]]:
        """The JSON lines of its log, of all its runs."""
        events = []
        for line in self.log.read_text(errors="replace").splitlines() if self.log.exists() else []:
            if line.startswith("{"):
                with suppress(ValueError):
                    events.append(json.loads(line))
        return events


def kill_group(pid: int) -> None:
    """kill -9 of what is left of a process's group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
