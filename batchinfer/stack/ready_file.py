"""The file for programs that started us: where we listen, the key, and who runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchinfer.errors import StartError
from batchinfer.stack.home import write_private

if TYPE_CHECKING:
    from pathlib import Path

ROLES = ("postgres", "redis", "web", "beat", "cpu", "model")


class ReadyFile:
    """JSON with `url`, `api_key` and `pids` by role. There from when all is healthy until the end begins."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._facts: dict[str, str] | None = None

    def remove(self) -> None:
        """No longer ready, or not yet. Raises StartError where the file could not be written later."""
        self._facts = None
        if self.path is None:
            return
        try:
            self.path.unlink(missing_ok=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_private(self.path, "")
            self.path.unlink()
        except OSError:
            raise StartError(
                f"The ready-file {self.path} cannot be written. Choose another place with --ready-file."
            ) from None

    def write(self, url: str, api_key: str, pids: dict[str, list[int]]) -> None:
        """Say that all is ready."""
        self._facts = {"url": url, "api_key": api_key}
        self.update(pids)

    def update(self, pids: dict[str, list[int]]) -> None:
        """After a process was replaced. Does nothing before `write`."""
        if self.path is not None and self._facts is not None:
            roles = {role: pids.get(role, []) for role in ROLES}
            write_private(self.path, json.dumps({**self._facts, "pids": roles}, indent=1) + "\n")
