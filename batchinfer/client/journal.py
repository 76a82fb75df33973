"""What a run over many files has done, so that the next run does none of it again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from batchinfer.client.lines import Lines
from batchinfer.errors import Conflict

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

_FORMAT = "batchinfer-map-1"


@dataclass
class Entry:
    """One file with these bytes: how often it was submitted, the last id, and how it ended once that was told."""

    submitted: int = 0
    id: str | None = None
    status: str | None = None
    good: bool = False


class Journal:
    """In memory, or in a file that a second run reads. May be used from several threads.

    A file is known by its name and its SHA-256: one that has changed since is another one.
    """

    def __init__(self, path: str | os.PathLike[str] | None, request: Mapping[str, Any]) -> None:
        """`request` is what all files are asked. Raises Conflict where the file is of another request or in use."""
        self._entries: dict[tuple[str, str], Entry] = {}
        self._lock, self._run = Lock(), uuid4().hex
        self._lines = Lines(path) if path is not None else None
        if self._lines is not None:
            try:
                self._open(self._lines, hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest())
            except BaseException:
                self._lines.close()
                raise

    def close(self) -> None:
        """Close the file."""
        if self._lines is not None:
            self._lines.close()

    def find(self, name: str, sha256: str) -> Entry:
        """What is known of a file; an empty entry where nothing is."""
        with self._lock:
            return self._entries.setdefault((name, sha256), Entry())

    def make_key(self, name: str, sha256: str) -> str:
        """The idempotency key of a file's next submission: the same one after a crash that nobody noted."""
        said = "\0".join([self._run, name, sha256, str(self.find(name, sha256).submitted)])
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()

    def note_submitted(self, name: str, sha256: str, thing_id: str) -> None:
        """The service took it."""
        self._note({"file": name, "sha256": sha256, "id": thing_id})

    def note_told(self, name: str, sha256: str, status: str, *, good: bool) -> None:
        """Its outcome was taken by who asked for it."""
        self._note({"file": name, "sha256": sha256, "status": status, "good": good})

    def _note(self, line: dict[str, Any]) -> None:
        with self._lock:
            if self._lines is not None:
                self._lines.add(line)
            self._apply(line)

    def _apply(self, line: Mapping[str, Any]) -> None:
        entry = self._entries.setdefault((line["file"], line["sha256"]), Entry())
        if "id" in line:
            entry.submitted, entry.id, entry.status = entry.submitted + 1, line["id"], None
        else:
            entry.status, entry.good = line["status"], line["good"]

    def _open(self, lines: Lines, request: str) -> None:
        known = lines.read()
        head = next(known, None)
        if head is None:
            lines.add({"format": _FORMAT, "run": self._run, "request": request})
            return
        if head.get("format") != _FORMAT or head.get("request") != request:
            raise Conflict(
                f"{lines.path.name} is the state of another request: its prompt, model or options were others. "
                "Ask as before, or choose another state file."
            )
        self._run = str(head["run"])
        for line in known:
            self._apply(line)
