"""The logs of a home, read back: lines of JSON, and whatever else a process wrote, in the order of time.

A line that is no JSON (of Postgres, of a library that prints) is a record with its text alone; one that is cut in the
middle is, too. A log that is set aside or cut while it is read costs no error.
"""

from __future__ import annotations

import heapq
import json
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEVELS = ("debug", "info", "warning", "error", "critical")
#: The longest line that is read as one.
_MOST_BYTES = 2**20
_FOLLOW_S = 0.25
_NUMBERED = re.compile(r"\.log(?:\.(\d+))?$")
_ROLES = {"web": "web", "beat": "beat", "postgres": "postgres", "valkey": "redis"}
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Record:
    """A line of a log. `fields` is all of its JSON, empty where it is none; `text` is the line as it stands."""

    process: str
    role: str
    #: None: the line names none.
    at: datetime | None
    level: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def event(self) -> str:
        """What happened, in its words."""
        return str(self.fields.get("event", self.text))


@dataclass(frozen=True)
class Wanted:
    """Which lines; None leaves a condition out. Ids are looked for in every field, with and without their prefix."""

    job: str | None = None
    trace: str | None = None
    role: str | None = None
    level: str | None = None
    since: datetime | None = None

    def takes(self, record: Record, at: datetime | None) -> bool:
        """Whether a record is wanted; `at` is its time, or that of the line before it."""
        if self.role is not None and record.role != self.role:
            return False
        if self.level is not None and _rank(record.level) < _rank(self.level):
            return False
        if self.since is not None and (at is None or at < self.since):
            return False
        return all(_names(record.text, digits) for digits in (self.job, self.trace) if digits is not None)


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else LEVELS.index("info")


def _names(text: str, digits: str) -> bool:
    """Whether a line names an id: its digits in one, or with the hyphens of a UUID."""
    wanted = digits.rpartition("_")[2].replace("-", "").lower()
    hyphens = "-".join(wanted[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
    return wanted in text or (len(wanted) == 32 and hyphens in text)


def parse_line(raw: bytes, process: str) -> Record | None:
    """A line of the log of `process`; None for an empty one."""
    text = raw.decode("utf-8", "replace").strip("\r\n\0 ")
    if not text:
        return None
    role = _ROLES.get(process, "cpu" if re.fullmatch(r"cpu\d*", process) else "model")
    try:
        fields = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return Record(process, role, None, "info", text)
    return Record(
        process, str(fields.get("role") or role), _read_time(fields.get("timestamp")),
        str(fields.get("level", "info")).lower(), text, fields,
    )  # fmt: skip


def _read_time(value: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def read_records(folder: Path, wanted: Wanted) -> Iterator[Record]:
    """Wanted lines of all logs of a folder, those set aside first, merged by their times."""
    processes = sorted({path.name.partition(".log")[0] for path in folder.glob("*.log*") if _is_log(path)})
    streams = [_read_process(folder, process, wanted) for process in processes]
    for _, _, record in heapq.merge(*streams, key=lambda one: one[:2]):
        yield record


def _is_log(path: Path) -> bool:
    return _NUMBERED.search(path.name) is not None


def _read_process(folder: Path, process: str, wanted: Wanted) -> Iterator[tuple[datetime, str, Record]]:
    at: datetime | None = None
    for path in _list_files(folder, process):
        try:
            with path.open("rb") as file:
                while raw := file.readline(_MOST_BYTES):
                    record = parse_line(raw, process)
                    if record is None:
                        continue
                    # Clocks that are set back do not turn the order of a file around.
                    at = max(at, record.at) if at and record.at else record.at or at
                    if wanted.takes(record, at):
                        yield at or _EPOCH, process, record
        except FileNotFoundError:  # set aside meanwhile
            continue


def _list_files(folder: Path, process: str) -> list[Path]:
    """Oldest first."""
    found = []
    for path in folder.glob(f"{process}.log*"):
        match = _NUMBERED.search(path.name)
        if match is not None and path.name[: match.start()] == process:
            found.append((-int(match.group(1) or 0), path))
    return [path for _, path in sorted(found)]


class Follower:
    """Reads on at the ends of all logs of a folder, those of processes that come later, too."""

    def __init__(self, folder: Path, wanted: Wanted) -> None:
        self._folder, self._wanted = folder, wanted
        self._places: dict[str, tuple[int, int]] = {}
        self._rest: dict[str, bytes] = {}
        self._look(at_end=True)

    def follow(self, pause_s: float = _FOLLOW_S) -> Iterator[Record]:
        """Wanted lines as they are written, without end."""
        while True:
            yield from self.read_new()
            time.sleep(pause_s)

    def read_new(self) -> list[Record]:
        """What was written since the last look, in the order of time."""
        return sorted(self._look(at_end=False), key=lambda record: record.at or _EPOCH)

    def _look(self, *, at_end: bool) -> list[Record]:
        found: list[Record] = []
        for path in sorted(self._folder.glob("*.log")):
            try:
                found += self._read_on(path, at_end=at_end)
            except OSError:  # gone between the look and the reading
                continue
        return found

    def _read_on(self, path: Path, *, at_end: bool) -> list[Record]:
        process = path.name.removesuffix(".log")
        with path.open("rb") as file:
            inode, size = path.stat().st_ino, file.seek(0, 2)
            known, offset = self._places.get(process, (inode, size if at_end else 0))
            if known != inode or size < offset:  # cut, or another file: from its beginning
                offset, self._rest[process] = 0, b""
            file.seek(offset)
            data = file.read(size - offset)
        self._places[process] = (inode, offset + len(data))
        *lines, rest = (self._rest.get(process, b"") + data).split(b"\n")
        self._rest[process] = rest[-_MOST_BYTES:]
        records = (parse_line(line, process) for line in lines)
        return [record for record in records if record is not None and self._wanted.takes(record, record.at)]
