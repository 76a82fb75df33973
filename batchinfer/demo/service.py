"""The service as the demo's child: `batchinfer up` in a home of its own, found through its ready-file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from batchinfer.settings import PREFIX

_LOOK_S = 0.1
#: Signals of a stop and how long each may take. The first lets workers finish what they run; with a kill the
#: children end too.
_STOPS = ((signal.SIGTERM, 8.0), (signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0))


class NotStarted(Exception):
    """The service did not become ready; the text holds the last lines that it wrote."""


class Service:
    """`batchinfer up`, which lives as long as this, unless it is left running."""

    def __init__(self, folder: Path, model: str | None, *, sources: Path) -> None:
        """Start it. Its home, ready-file and output are in `folder`; runs may read what lies below `sources`."""
        self.home = folder / "home"
        self.output = folder / "up.log"
        self._ready_file = folder / "ready.json"
        self._facts: dict[str, Any] = {}
        program = Path(sys.executable).with_name("batchinfer")
        command = [str(program)] if program.exists() else [sys.executable, "-m", "batchinfer.cli"]
        command += ["up", "--home", str(self.home), "--ready-file", str(self._ready_file)]
        if model is not None:
            command += ["--model", model]
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, f"{PREFIX}SOURCE_FOLDERS": str(sources)},
                start_new_session=True,  # Ctrl-C is ours to handle; and it may stay when we go
            )

    @property
    def pid(self) -> int:
        """The process id of `batchinfer up`."""
        return self._process.pid

    @property
    def url(self) -> str:
        """Where it answers."""
        return str(self._facts["url"])

    @property
    def api_key(self) -> str:
        """A key for everything."""
        return str(self._facts["api_key"])

    def wait_ready(self, timeout_s: float) -> None:
        """Go on when all its processes are healthy. Raises NotStarted."""
        deadline = time.monotonic() + timeout_s
        while not self._read():
            if self._process.poll() is not None:
                raise NotStarted(f"The service ended before it was ready. It said:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise NotStarted(f"The service was not ready after {timeout_s:.0f} s. It said:\n{self.tail()}")
            time.sleep(_LOOK_S)

    def find_pids(self, role: str) -> list[int]:
        """The processes of a role just now; none while one is being replaced."""
        self._read()
        return [int(pid) for pid in self._facts.get("pids", {}).get(role, [])]

    def tail(self, lines: int = 15) -> str:
        """The last lines that it wrote."""
        text = self.output.read_text(errors="replace").rstrip()
        return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (nothing)"

    def stop(self) -> None:
        """End it in order; asked a second time it hurries, and in the end it is killed."""
        for number, wait_s in _STOPS:
            if self._process.poll() is None:
                self._process.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(wait_s)

    def _read(self) -> bool:
        with suppress(FileNotFoundError, ValueError):
            self._facts = json.loads(self._ready_file.read_text())
        return bool(self._facts)
