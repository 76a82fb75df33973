"""Web servers to measure: ours, and a route that only answers, under the same gunicorn."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from batchinfer.services.keys import create_key
from bench.queue.stand import ROOT, Stand, environment_of

#: Of a start.
PATIENCE_S = 60.0
_TICK = os.sysconf("SC_CLK_TCK")
OURS, BARE = "batchinfer.web:create_app()", "bench.api.bare:create_app()"


@dataclass(frozen=True)
class Web:
    """A running server, its process and a key to it."""

    host: str
    port: int
    pid: int
    key: str

    def connect(self) -> HTTPConnection:
        """A connection that is kept, with a long patience."""
        return HTTPConnection(self.host, self.port, timeout=120)

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {"Authorization": f"Bearer {self.key}"}


@contextmanager
def open_web(stand: Stand, app: str = OURS) -> Iterator[Web]:
    """gunicorn with the settings of `batchinfer up`, on a free port of this machine."""
    key = create_key(stand.ctx, "bench")[1]
    log = stand.folder / f"web-{time.monotonic_ns()}.log"
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener, log.open("wb") as output:
        command = [sys.executable, "-m", "gunicorn", "-c", "python:batchinfer.stack.gunicorn_settings"]
        command += ["--bind", f"fd://{listener.fileno()}", app]
        popen = subprocess.Popen(
            command, env=environment_of(stand.settings, stand.folder), cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, pass_fds=[listener.fileno()],
        )  # fmt: skip
        try:
            web = Web("127.0.0.1", listener.getsockname()[1], popen.pid, key)
            _wait_until_up(web, log)
            yield web
        finally:
            popen.terminate()
            try:
                popen.wait(40)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()


def _wait_until_up(web: Web, log: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        connection = web.connect()
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise TimeoutError(f"the web server did not start: {log.read_text()[-2000:]}")


def read_cpu_s(root: int) -> float:
    """CPU seconds of a process, of all that descend from it, and of those of them that have ended."""
    parents = {pid: fields for pid in _list_pids() if (fields := _read_stat(pid))}
    tree, total = {root}, 0.0
    grown = True
    while grown:
        more = {pid for pid, fields in parents.items() if int(fields[1]) in tree} - tree
        tree, grown = tree | more, bool(more)
    for pid in tree & parents.keys():
        total += sum(int(field) for field in parents[pid][11:15])  # own and of ended children, user and system
    return total / _TICK


def find_servers(stand: Stand) -> list[int]:
    """The processes that Postgres and Valkey of this stand began with."""
    found = []
    for pid in _list_pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:
            continue
        name = Path(words[0]).name
        if str(stand.folder) in " ".join(words) and name in {"postgres", "valkey-server", "valkey"}:
            found.append(pid)
    return found


def _list_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _read_stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
