"""A JSONL file that is only added to: a line is there whole or not at all, and one process holds the file."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from batchinfer.errors import BadRequest, Conflict

if TYPE_CHECKING:
    from collections.abc import Iterator


class Lines:
    """Open a file, or make it. A last line that was cut off by a crash is dropped.

    Raises Conflict where another process holds it, BadRequest where it is something else than JSONL, OSError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            self._lock()
            self._drop_torn_end()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have it. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def add(self, value: dict[str, Any]) -> None:
        """A line more. Raises OSError, and then the file is as it was."""
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except BaseException:
            os.ftruncate(self._descriptor, size)
            raise

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines that are there, from the first. Raises BadRequest for one that is no JSON object."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield self._decode(line, number)

    def _decode(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise BadRequest(
                f"{self.path.name}, line {number}, is no JSON object: it is another file. Choose another place.",
                code="invalid_json_line",
            )
        return value

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"Another run writes {self.path.name}. Wait for it, or choose another place.") from None

    def _drop_torn_end(self) -> None:
        keep = number = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    keep += len(line)
                elif not line.startswith(b"{"):  # none of ours: it is somebody's file
                    self._decode(line, number)
        os.ftruncate(self._descriptor, keep)
