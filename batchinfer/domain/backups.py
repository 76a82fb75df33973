"""What a backup is: its manifest, as it is written and as it is read again. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

from batchinfer.errors import BackupError

#: Of the layout below; a program reads its own and older ones.
FORMAT: Final = 1
#: Written last: a folder without it is no backup.
MANIFEST = "manifest.json"
#: Modes of the bytes that jobs and documents refer to: copied into the backup, or named in it alone.
COPY, LIST = "copy", "list"
#: Told how far it is: what is done, bytes done, bytes in all.
Report: TypeAlias = Callable[[str, int, int], None]
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_FILE = re.compile(r"[a-z_][a-z0-9_.]{0,80}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DAY = re.compile(r"\d{8}")


@dataclass(frozen=True)
class DumpFile:
    """A file of the backup: gzip'd text, as Postgres' COPY writes it. `raw_bytes` is its length unpacked."""

    name: str
    sha256: str
    bytes: int
    raw_bytes: int
    rows: int


@dataclass(frozen=True)
class DumpTable:
    """The rows of a table, in the order of these columns."""

    name: str
    columns: tuple[str, ...]
    file: DumpFile


@dataclass(frozen=True)
class Blobs:
    """The bytes by SHA-256. `file` names each: tenant, SHA-256 and length, with tabs between.

    `removed`: `<tenant>/<sha256>` of those that were deleted while they were copied; nobody misses them. `lost`: the
    same of those that should have been in the store and were not, or with other bytes.
    """

    mode: str
    count: int
    bytes: int
    file: DumpFile
    removed: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def absent(self) -> frozenset[str]:
        """Those that are named and were not copied."""
        return frozenset((*self.removed, *self.lost))


@dataclass(frozen=True)
class Manifest:
    """What a backup holds, table by table in an order in which each can be filled."""

    version: str
    revision: str
    #: When its one snapshot was taken, by the database's clock, and what server that was.
    taken_at: str
    server: str
    tables: tuple[DumpTable, ...]
    #: Days (YYYYMMDD) that had tables of their own.
    days: tuple[str, ...]
    blobs: Blobs
    #: SHA-256 of settings.json.
    settings_sha256: str
    format: int = field(default=FORMAT)

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.file.rows for table in self.tables)

    @property
    def raw_bytes(self) -> int:
        """Bytes of all rows as text."""
        return sum(table.file.raw_bytes for table in self.tables)

    def as_dict(self) -> dict[str, Any]:
        """For manifest.json."""
        return asdict(self)


def parse_manifest(found: Any) -> Manifest:
    """A manifest that was read. Nothing in it can lead out of its folder or into a statement.

    Raises BackupError (code backup_newer, code backup_damaged).
    """
    if isinstance(found, dict) and isinstance(found.get("format"), int) and found["format"] > FORMAT:
        raise BackupError(
            "This backup was made by a newer batchinfer. Install that version, or a later one, to restore it.",
            code="backup_newer",
        )
    try:
        manifest = Manifest(
            version=str(found["version"]),
            revision=str(found["revision"]),
            taken_at=datetime.fromisoformat(found["taken_at"]).isoformat(),
            server=str(found["server"]),
            tables=tuple(_parse_table(table) for table in found["tables"]),
            days=tuple(_match(_DAY, day) for day in found["days"]),
            blobs=_parse_blobs(found["blobs"]),
            settings_sha256=_match(_SHA256, found["settings_sha256"]),
            format=int(found["format"]),
        )
    except (KeyError, TypeError, ValueError):
        raise damaged(MANIFEST) from None
    return manifest


def quiet(_what: str, _done: int, _total: int) -> None:
    """A report to nobody."""


def damaged(name: str) -> BackupError:
    """A file of a backup is not what was written."""
    return BackupError(
        f"The file {name} of this backup is missing or damaged, so nothing was restored. "
        "Take another copy of the backup, or an older one.",
        code="backup_damaged",
    )


def _parse_table(found: Any) -> DumpTable:
    columns = tuple(_match(_NAME, name) for name in found["columns"])
    return DumpTable(_match(_NAME, found["name"]), columns, _parse_file(found["file"]))


def _parse_blobs(found: Any) -> Blobs:
    if found["mode"] not in {COPY, LIST}:
        raise ValueError(found["mode"])
    return Blobs(
        mode=found["mode"],
        count=int(found["count"]),
        bytes=int(found["bytes"]),
        file=_parse_file(found["file"]),
        removed=tuple(map(str, found["removed"])),
        lost=tuple(map(str, found["lost"])),
    )


def _parse_file(found: Any) -> DumpFile:
    return DumpFile(
        name=_match(_FILE, found["name"]),
        sha256=_match(_SHA256, found["sha256"]),
        bytes=int(found["bytes"]),
        raw_bytes=int(found["raw_bytes"]),
        rows=int(found["rows"]),
    )


def _match(pattern: re.Pattern[str], text: Any) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(text)
    return str(text)
