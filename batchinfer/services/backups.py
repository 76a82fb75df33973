"""An operator's verbs: make a backup of the whole installation while it works, and look whether one is whole."""

from __future__ import annotations

import re
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import SecretStr

from batchinfer import __version__
from batchinfer.domain.backups import COPY, LIST, Blobs, DumpFile, DumpTable, Manifest, damaged, quiet
from batchinfer.errors import BackupError, Unavailable
from batchinfer.media import backup_files
from batchinfer.media.backup_files import BLOBS, FULL, SETTINGS, Entry, Writing
from batchinfer.media.blobs import BlobStore
from batchinfer.settings import list_settings
from batchinfer.store import dumping, sweeping
from batchinfer.store.migrate import head_revision, is_known
from batchinfer.store.session import Database

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from batchinfer.domain.backups import Report
    from batchinfer.settings import Settings

MAX_MINUTES = 60.0
Pieces: TypeAlias = "Generator[bytes, None, None]"
#: Rows of blobs that are asked for at once.
_GROUP = 1000
_LOGIN = re.compile(r"://[^/@\s,]*@")


@dataclass(frozen=True)
class Backup:
    """A backup that is there: its folder, and what it holds."""

    place: Path
    manifest: Manifest
    #: Older ones that were removed.
    removed: int = 0


def back_up(
    settings: Settings,
    folder: Path,
    *,
    blobs: str = COPY,
    max_minutes: float = MAX_MINUTES,
    keep: int | None = None,
    report: Report = quiet,
) -> Backup:
    """Write a backup into a folder of backups: every row as of one moment, the bytes that they refer to (those that the
    folder has are not copied again; `blobs` list: only their names), and the settings without secrets.

    `max_minutes` is how long the snapshot may be held; `keep` removes older backups beyond so many. Raises BackupError
    and Unavailable; then nothing of this backup is left but bytes by SHA-256 that the next one needs not copy.
    """
    url = settings.require_database_url()
    with _room(), backup_files.open_folder(folder, taking=True), Writing(folder, _stamp(folder)) as writing:
        manifest = _write_rows(url, writing, time.monotonic() + max_minutes * 60, report)
        if blobs == COPY:
            manifest = replace(manifest, blobs=_copy_blobs(settings, folder, writing, manifest.blobs, report))
        place = writing.close(replace(manifest, settings_sha256=writing.write_json(SETTINGS, describe(settings))))
        return Backup(place, backup_files.read_manifest(place), 0 if keep is None else _prune(folder, keep))


def check(folder: Path, report: Report = quiet) -> Backup:
    """Read every byte of a backup, the newest one of a folder of backups, against its manifest.

    Raises BackupError: no_backup, backup_newer, or backup_damaged with the file's name.
    """
    place = backup_files.find_backup(folder)
    manifest = backup_files.read_manifest(place)
    if not is_known(manifest.revision):
        raise BackupError(
            "This backup was made by a newer batchinfer (its schema is unknown here; this program has "
            f"{head_revision()}). Install that version, or a later one, to restore it.",
            code="backup_newer",
        )
    backup_files.check_settings(place, manifest)
    blobs = manifest.blobs
    files = [*(table.file for table in manifest.tables), blobs.file]
    total = sum(file.bytes for file in files) + (blobs.bytes if blobs.mode == COPY else 0)
    note = Counter("checking", total, report)
    for file in files:
        backup_files.check_file(place, file, note)
    if blobs.mode == COPY:
        store = stored_blobs(place)
        for entry in backup_files.list_entries(place, blobs.file):
            if entry.name not in blobs.absent:
                path = store.path(entry.tenant_id, entry.sha256)
                if backup_files.hash_file(path, note) != (entry.sha256, entry.size_bytes):
                    raise damaged(f"{BLOBS}/{entry.name}")
    return Backup(place, manifest)


def stored_blobs(place: Path) -> BlobStore:
    """The bytes beside a backup."""
    return BlobStore(place.parent / BLOBS)


def describe(settings: Settings) -> dict[str, Any]:
    """The settings for people, who set them again: secrets by name alone, and no login of an address."""
    secrets = {name for name in type(settings).model_fields if isinstance(getattr(settings, name), SecretStr)}
    rows = list_settings(settings)
    return {
        "version": __version__,
        "settings": {row.variable: _LOGIN.sub("://", row.value) for row in rows if row.value not in {"unset", "set"}},
        "secrets_to_keep_apart": sorted(row.variable for row in rows if row.name in secrets),
    }


def _write_rows(url: str, writing: Writing, deadline_s: float, report: Report) -> Manifest:
    with dumping.open_dump(url) as dump:
        if dump.revision is None or not is_known(dump.revision):
            raise BackupError(
                "The database has no schema of ours, or that of a newer release. Name the right database, or make the "
                "backup with the release that runs there.",
                code="schema_unknown",
            )
        done = 0

        def timed(pieces: Pieces) -> Pieces:
            nonlocal done
            with closing(pieces):
                for piece in pieces:
                    if time.monotonic() > deadline_s:
                        raise _too_long()
                    done += len(piece)
                    # What the tables take on the disk is a guess at what their text takes.
                    report("rows", done, max(done, dump.disk_bytes))
                    yield piece

        tables = []
        for table in dump.tables:
            file = writing.pack(f"{table.name}.gz", timed(dump.copy(table)))
            tables.append(DumpTable(table.name, table.columns, replace(file, rows=dump.rows)))
        file = writing.pack("blobs.tsv.gz", timed(dump.copy_blobs()))
        return Manifest(
            version=__version__,
            revision=dump.revision,
            taken_at=dump.taken_at,
            server=dump.server,
            tables=tuple(tables),
            days=tuple(dump.days),
            blobs=_listed(writing, replace(file, rows=dump.rows)),
            settings_sha256="",
        )


def _listed(writing: Writing, file: DumpFile) -> Blobs:
    size = sum(entry.size_bytes for entry in writing.list_entries(file))
    return Blobs(LIST, file.rows, size, file)


def _copy_blobs(settings: Settings, folder: Path, writing: Writing, named: Blobs, report: Report) -> Blobs:
    """Copy what the folder lacks. What is gone was deleted meanwhile, and then its row is gone too, or is lost."""
    source, target = BlobStore(settings.blobs_dir), BlobStore(folder / BLOBS)

    def missing() -> Iterator[Entry]:
        return (entry for entry in writing.list_entries(named.file) if not backup_files.has_blob(target, entry))

    needed = sum(entry.size_bytes for entry in missing())
    if needed > backup_files.measure_free(folder):
        raise _full()
    target.root.mkdir(mode=0o700, exist_ok=True)
    note, gone = Counter("files", needed, report), list[Entry]()
    for entry in missing():
        if not backup_files.copy_blob(source, target, entry):
            gone.append(entry)
        note(entry.size_bytes)
    known = _list_known(settings, gone)
    removed = tuple(sorted(entry.name for entry in gone if entry not in known))
    lost = tuple(sorted(entry.name for entry in known))
    present = named.bytes - sum(entry.size_bytes for entry in gone)
    return replace(named, mode=COPY, bytes=present, removed=removed, lost=lost)


def _list_known(settings: Settings, entries: list[Entry]) -> set[Entry]:
    """Those that still have a row."""
    known: set[Entry] = set()
    db = Database(settings.require_database_url(), pool_size=1, application=dumping.APPLICATION)
    try:
        for start in range(0, len(entries), _GROUP):
            some = entries[start : start + _GROUP]
            with db.transaction() as tx:
                for tenant_id in {entry.tenant_id for entry in some}:
                    names = [entry.sha256 for entry in some if entry.tenant_id == tenant_id]
                    found = sweeping.find_known(tx, tenant_id, names)
                    known |= {entry for entry in some if entry.tenant_id == tenant_id and entry.sha256 in found}
    finally:
        db.dispose()
    return known


def _prune(folder: Path, keep: int) -> int:
    """Remove older backups beyond the newest `keep`, and the bytes that none of the others names."""
    found = backup_files.list_backups(folder)
    gone, kept = found[: max(0, len(found) - keep)], found[max(0, len(found) - keep) :]
    if not gone:
        return 0
    for place in gone:
        backup_files.remove_backup(place)
    named = {
        entry.name
        for place in kept
        for entry in backup_files.list_entries(place, backup_files.read_manifest(place).blobs.file)
    }
    backup_files.remove_strays(BlobStore(folder / BLOBS), named)
    return len(gone)


class Counter:
    """Adds bytes up for a report."""

    def __init__(self, what: str, total: int, report: Report) -> None:
        self._what, self._total, self._report, self._done = what, total, report, 0

    def __call__(self, number: int) -> None:
        self._done += number
        self._report(self._what, self._done, self._total)


def _stamp(folder: Path) -> str:
    """The name of a backup that begins now."""
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    number = 1
    while (folder / (name := stamp if number == 1 else f"{stamp}-{number}")).exists():
        number += 1
    return name


@contextmanager
def _room() -> Iterator[None]:
    """A disk that fills while it is written to is one clear line; what was half written is gone by then."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _full() from None
    except Unavailable as error:
        if error.code != "storage_full":
            raise
        raise _full() from None


def _too_long() -> BackupError:
    return BackupError(
        "The rows took longer than --max-minutes: a snapshot that is held for long slows every claim down. "
        "No backup was made. Make it when less is going on, or allow more minutes.",
        code="backup_too_long",
    )


def _full() -> BackupError:
    return BackupError(
        "The disk of the backup is full, so no backup was made; earlier ones are as they were. Free some space there, "
        "name another folder, or let --keep remove older ones.",
        code="backup_disk_full",
    )
