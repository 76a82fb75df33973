"""A proxy between a process and a server of it, that cuts, swallows, holds, and loses the answer to a COMMIT."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Longest wait for a server's answer that is to be lost.
ANSWER_S = 5.0
_CHUNK_BYTES = 65536


class Loss(Enum):
    """What happens at a COMMIT."""

    #: It never reaches the server: the transaction is rolled back.
    BEFORE = "before"
    #: The server commits and its answer is lost.
    AFTER = "after"


class Wire:
    """One connection: a client's socket and the server's."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        #: What the server says next is kept from the client.
        self.swallowing = False
        self.answered = threading.Event()
        #: Whether a statement of interest was sent in the transaction under way.
        self.marked = False

    def break_(self) -> None:
        """End both sides."""
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Listens on `host`; `port` says where. Every method may be called from any thread."""

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1") -> None:
        self._target = target
        self._listener = socket.create_server((host, 0), backlog=128)
        self._wires: set[Wire] = set()
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._losses: list[Loss] = []
        self._mark = b""
        self.refusing = False
        #: Commits lost in either way; connections broken on purpose; bytes that had to wait.
        self.lost = {Loss.BEFORE: 0, Loss.AFTER: 0}
        self.broken = 0
        self.held_bytes = 0
        self._on_committed: Callable[[], None] | None = None
        self._on_held: Callable[[], None] | None = None
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    @property
    def port(self) -> int:
        """Where clients connect."""
        return int(self._listener.getsockname()[1])

    def count_open(self) -> int:
        """Connections now."""
        with self._lock:
            return len(self._wires)

    def cut(self) -> None:
        """Break every connection, and refuse new ones until `mend`."""
        self.refusing = True
        self.break_all()

    def break_all(self) -> None:
        """Break every connection; new ones are welcome."""
        with self._lock:
            wires = list(self._wires)
        self.broken += len(wires)
        for wire in wires:
            wire.break_()

    def swallow(self, call: Callable[[], None] | None = None) -> None:
        """Half open: connections stand, nothing passes. What was sent meanwhile arrives after `mend`.

        `call` is called once, when a client next says something.
        """
        self._on_held = call
        self._flowing.clear()

    def mend(self) -> None:
        """Let everything pass again."""
        self.refusing = False
        self._losses.clear()
        self._flowing.set()

    def lose_commits(self, losses: list[Loss], mark: bytes = b"") -> None:
        """Break connections at their next COMMITs, one each, of transactions in which `mark` was sent."""
        self._mark = mark
        self._losses[:] = losses

    def call_at_commit(self, call: Callable[[], None], mark: bytes) -> None:
        """Call once, after the server has committed a transaction in which `mark` was sent, and before the client
        learns of it, which it never does: its connection breaks."""
        self._mark, self._on_committed = mark, call

    def close(self) -> None:
        """Stop listening and break all."""
        self.refusing = True
        self._flowing.set()
        self._listener.close()
        self.break_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            threading.Thread(target=self._connect, args=(client,), name="proxy-connect", daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        if not self._flowing.is_set():
            self._tell_held()
            self._flowing.wait()
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = Wire(client, server)
        with self._lock:
            self._wires.add(wire)
        threading.Thread(target=self._pump, args=(wire, True), name="proxy-up", daemon=True).start()
        self._pump(wire, False)

    def _pump(self, wire: Wire, upwards: bool) -> None:
        source, target = (wire.client, wire.server) if upwards else (wire.server, wire.client)
        with suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                if not self._flowing.is_set():
                    self.held_bytes += len(data)
                    self._tell_held()
                    self._flowing.wait()
                if upwards and not self._pass_commit(wire, data):
                    break
                if not upwards and wire.swallowing:
                    wire.answered.set()
                    continue
                target.sendall(data)
        wire.break_()
        source.close()
        with self._lock:
            self._wires.discard(wire)

    def _tell_held(self) -> None:
        with self._lock:
            told, self._on_held = self._on_held, None
        if told is not None:
            told()

    def _pass_commit(self, wire: Wire, data: bytes) -> bool:
        """False where this COMMIT was chosen to be lost, with its connection."""
        if not self._losses and self._on_committed is None:
            return True
        wire.marked = wire.marked or self._mark in data
        if b"COMMIT" not in data or not wire.marked:
            return True
        wire.marked = False
        with self._lock:
            loss = self._losses.pop(0) if self._losses else Loss.AFTER if self._on_committed else None
        if loss is None:
            return True
        if loss is Loss.AFTER:
            wire.swallowing = True
            wire.server.sendall(data)
            wire.answered.wait(ANSWER_S)
            told, self._on_committed = self._on_committed, None
            if told is not None:
                told()
        self.lost[loss] += 1
        self.broken += 1
        return False
