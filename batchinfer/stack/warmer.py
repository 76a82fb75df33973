"""Reads weights into this machine's page cache some minutes before a schedule needs them, each folder once an instant.

The reading is a program of the data plane (`workers.engine.warming`), which this package never imports.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from batchinfer.errors import BatchinferError
from batchinfer.observe.logs import get_logger
from batchinfer.services import warming

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.warming import Warmable

#: Between two looks, in seconds; a schedule that is declared within that of its instant is not warmed for.
LOOK_S = 15.0

_log = get_logger(__name__)


class Warmer(threading.Thread):
    """One folder after another: two at once would only share the disk."""

    def __init__(self, ctx: Context, host: str, keeper_id: UUID) -> None:
        super().__init__(name="warmer", daemon=True)
        self._ctx, self._host, self._keeper_id = ctx, host, keeper_id
        self._quit = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        #: Folders and the last instant that each was read for.
        self._done: dict[str, datetime] = {}

    def run(self) -> None:
        while not self._quit.wait(LOOK_S):
            try:
                self.look()
            except BatchinferError as error:
                _log.warning("weights were not read ahead", code=error.code)
            except Exception:
                _log.exception("weights were not read ahead")

    def look(self) -> None:
        """Read what is due and was not read for this instant. Raises Unavailable, OSError."""
        if not self._ctx.settings.warm_before_s:
            return
        for folder in warming.list_warmable(self._ctx, self._host):
            if self._quit.is_set():
                return
            if self._done.get(folder.path) != folder.next_at:
                self._done[folder.path] = folder.next_at
                self._warm(folder)

    def close(self) -> None:
        """Read no further. Returns at once."""
        self._quit.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def _warm(self, folder: Warmable) -> None:
        command = [sys.executable, "-m", "workers.engine.warming", folder.path, "--json"]
        with self._lock:
            if self._quit.is_set():
                return
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        try:
            said, _ = self._process.communicate()
        finally:
            self._process = None
        if self._quit.is_set():
            return
        done = _read(said)
        _log.info("weights were read ahead", model=folder.model, **done)
        warming.note_warmed(self._ctx, self._host, self._keeper_id, folder, done)


def _read(said: str) -> dict[str, Any]:
    """The last line of the program, one JSON object."""
    with suppress(ValueError, IndexError):
        found = json.loads(said.strip().splitlines()[-1])
        if isinstance(found, dict):
            return found
    return {"error": "The weights could not be read ahead."}
