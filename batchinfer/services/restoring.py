"""An operator's verb: fill an empty installation from a backup, all of it or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.domain.backups import COPY, damaged, quiet
from batchinfer.errors import BackupError
from batchinfer.media import backup_files
from batchinfer.media.blobs import BlobStore
from batchinfer.services.backups import Counter, check, stored_blobs
from batchinfer.store import restoring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchinfer.domain.backups import Manifest, Report
    from batchinfer.media.backup_files import Entry
    from batchinfer.services.backups import Backup
    from batchinfer.settings import Settings

#: What rows and their indexes take on the server's disk, and in its log of changes, for each byte of their text.
_GROWTH = 4


@dataclass(frozen=True)
class Restored:
    """What is there now."""

    place: Path
    manifest: Manifest
    #: Rows that were being worked on and wait again.
    requeued: int
    #: Files that were copied into the store of the home.
    files: int


def restore(
    settings: Settings,
    folder: Path,
    *,
    database_folder: Path | None = None,
    accept_missing: bool = False,
    report: Report = quiet,
) -> Restored:
    """Fill an empty database, and the home's store of files, from a backup (the newest one of a folder of backups).

    Looks at everything first: the backup byte for byte, that the database is empty, that there is room (in
    `database_folder`, where the server's data lie on this machine). Then files, then all rows in one transaction,
    brought to this release's schema. `accept_missing`: files that a backup names and does not hold may be missing
    here. Raises BackupError and Unavailable; then the database is empty as it was, and of the files none is left.
    """
    url = settings.require_database_url()
    with restoring.open_restore(url) as look:
        look.require_empty()
    found = check(folder, report)
    store = BlobStore(settings.blobs_dir)
    missing = list(_list_missing(found, store))
    _check_room(settings, found, missing, database_folder)
    if found.manifest.blobs.mode != COPY and missing and not accept_missing:
        raise BackupError(
            f"The backup names its files and does not hold them, and {len(missing):,} are not in the home's `blobs`. "
            "Bring them there first, or restore without them with --accept-missing: their jobs will fail.",
            code="files_missing",
        )
    copied: list[Entry] = []
    try:
        if found.manifest.blobs.mode == COPY:
            _copy_files(found, store, missing, copied, report)
        requeued = _fill(url, found, report)
    except BaseException:
        for entry in copied:
            store.path(entry.tenant_id, entry.sha256).unlink(missing_ok=True)
        raise
    restoring.analyze(url)
    return Restored(found.place, found.manifest, requeued, len(copied))


def _fill(url: str, found: Backup, report: Report) -> int:
    manifest = found.manifest
    note = Counter("rows", manifest.raw_bytes, report)

    def noted(pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            yield piece
            note(len(piece))

    with restoring.open_restore(url) as database:
        database.build(manifest.revision, manifest.days)
        for table in manifest.tables:
            rows = database.fill(table.name, table.columns, noted(backup_files.unpack(found.place, table.file)))
            if rows != table.file.rows:
                raise damaged(table.file.name)
        return database.finish().requeued


def _list_missing(found: Backup, store: BlobStore) -> Iterator[Entry]:
    blobs = found.manifest.blobs
    for entry in backup_files.list_entries(found.place, blobs.file):
        if entry.name not in blobs.absent and not backup_files.has_blob(store, entry):
            yield entry


def _copy_files(found: Backup, store: BlobStore, missing: list[Entry], copied: list[Entry], report: Report) -> None:
    source = stored_blobs(found.place)
    note = Counter("files", sum(entry.size_bytes for entry in missing), report)
    for entry in missing:
        copied.append(entry)
        if not backup_files.copy_blob(source, store, entry):
            raise damaged(f"{backup_files.BLOBS}/{entry.name}")
        note(entry.size_bytes)


def _check_room(settings: Settings, found: Backup, missing: list[Entry], database_folder: Path | None) -> None:
    """Each disk has room for what comes to it."""
    blobs = found.manifest.blobs
    files = sum(entry.size_bytes for entry in missing) if blobs.mode == COPY else 0
    rows = found.manifest.raw_bytes * _GROWTH
    wanted = [(settings.blobs_dir, files)]
    if database_folder is not None:
        wanted = [(settings.blobs_dir, files + rows), (database_folder, rows)]
    for place, needed in wanted:
        free = backup_files.measure_free(place)
        if needed > free:
            raise BackupError(
                f"The disk of the home has {free >> 20:,} MiB free, and the backup needs {needed >> 20:,} MiB there. "
                "Free some space, or choose another with --home. Nothing was changed.",
                code="restore_no_room",
            )
