"""The files of a backup: rows packed as they come, bytes by SHA-256 beside them, and what was written looked at again.

A folder of backups holds `blobs/`, which all its backups share, and a folder for each backup, named by its time. That
one is written as `.new-…` and renamed when it is whole: a folder with a manifest is a backup, nothing else is.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import zlib
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, cast
from uuid import UUID

from batchinfer.domain.backups import MANIFEST, DumpFile, Manifest, damaged, parse_manifest
from batchinfer.errors import BackupError
from batchinfer.media.blobs import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from batchinfer.media.blobs import BlobStore

#: The folder of the bytes, and the file of the settings.
BLOBS, SETTINGS = "blobs", "settings.json"
_FRESH = ".new-"
_STAMP = re.compile(r"\d{8}T\d{6}Z(-\d+)?")
_CHUNK_BYTES = 1 << 20
#: Of gzip: 6 packs little smaller and takes twice the time.
_LEVEL = 3
FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Entry:
    """A blob as a backup names it."""

    tenant_id: UUID
    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        """As the manifest writes it."""
        return f"{self.tenant_id.hex}/{self.sha256}"


class Writing:
    """A backup that is being written. `close` with the manifest makes it one; without, nothing of it stays."""

    def __init__(self, folder: Path, stamp: str) -> None:
        self.folder = folder
        self.stamp = stamp
        self._fresh = folder / f"{_FRESH}{stamp}"

    def __enter__(self) -> Self:
        self._fresh.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._fresh, ignore_errors=True)

    def pack(self, name: str, pieces: Generator[bytes, None, None]) -> DumpFile:
        """Write a gzip'd file of pieces, which are closed then; its rows are for the caller to say."""
        with closing(pieces), _create(self._fresh / name) as file:
            counted = _Counted(file)
            raw_bytes = 0
            with gzip.GzipFile("", "wb", _LEVEL, cast("IO[bytes]", counted), mtime=0) as packed:
                for piece in pieces:
                    raw_bytes += packed.write(piece)
        return DumpFile(name, counted.digest.hexdigest(), counted.bytes, raw_bytes, 0)

    def list_entries(self, file: DumpFile) -> Iterator[Entry]:
        """The blobs that a file written here names."""
        return list_entries(self._fresh, file)

    def write_json(self, name: str, value: Any) -> str:
        """Write a small file of JSON. Answers its SHA-256."""
        data = json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n"
        with _create(self._fresh / name) as file:
            file.write(data)
        return hashlib.sha256(data).hexdigest()

    def close(self, manifest: Manifest) -> Path:
        """The manifest last, then its name: from here on it is a backup. Answers its folder."""
        self.write_json(MANIFEST, manifest.as_dict())
        sync_folder(self._fresh)
        place = self.folder / self.stamp
        self._fresh.rename(place)
        sync_folder(self.folder)
        return place


class _Counted:
    """A file that knows the length and the SHA-256 of what went through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def open_folder(folder: Path, *, taking: bool) -> Iterator[None]:
    """A folder of backups, made where it is missing and held against a second writer; what a killed one left half
    written goes. Without `taking` others may read it at once.

    Raises BackupError (code backup_in_use), OSError.
    """
    if taking:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if taking else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        if taking:
            for left in folder.glob(f"{_FRESH}*"):
                shutil.rmtree(left)
        yield
    except BlockingIOError:
        raise BackupError(
            "Another process writes into this folder of backups now. Wait for it, or name another folder.",
            code="backup_in_use",
        ) from None
    finally:
        os.close(descriptor)


def list_backups(folder: Path) -> list[Path]:
    """The backups of a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [place for place in folder.iterdir() if _STAMP.fullmatch(place.name) and (place / MANIFEST).is_file()]
    return sorted(found, key=lambda place: place.name)


def find_backup(folder: Path) -> Path:
    """The backup that is meant: this folder itself, or the newest in it. Raises BackupError (code no_backup)."""
    if (folder / MANIFEST).is_file():
        return folder
    found = list_backups(folder)
    if not found:
        raise BackupError(
            "There is no backup in this folder: one has a manifest.json, written when all the rest was. "
            "Name the folder that was given to `batchinfer backup`, or one of the backups in it.",
            code="no_backup",
        )
    return found[-1]


def read_manifest(place: Path) -> Manifest:
    """What a backup says of itself. Raises BackupError."""
    try:
        found = json.loads((place / MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise damaged(MANIFEST) from None
    return parse_manifest(found)


def check_file(place: Path, file: DumpFile, note: Callable[[int], None]) -> None:
    """Read a packed file whole; `note` hears of each piece. Raises BackupError (code backup_damaged) with its name."""
    if hash_file(place / file.name, note) != (file.sha256, file.bytes):
        raise damaged(file.name)


def check_settings(place: Path, manifest: Manifest) -> None:
    """The same of settings.json."""
    if hash_file(place / SETTINGS, lambda _: None)[0] != manifest.settings_sha256:
        raise damaged(SETTINGS)


def hash_file(path: Path, note: Callable[[int], None]) -> tuple[str, int]:
    """SHA-256 and length of a file; of one that cannot be read, nothing's."""
    digest, length = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                length += len(chunk)
                note(len(chunk))
    except OSError:
        return "", -1
    return digest.hexdigest(), length


def unpack(place: Path, file: DumpFile) -> Iterator[bytes]:
    """What a packed file holds, in pieces. Raises BackupError (code backup_damaged)."""
    try:
        with gzip.open(place / file.name, "rb") as packed:
            while chunk := packed.read(_CHUNK_BYTES):
                yield chunk
    except (OSError, EOFError, zlib.error):
        raise damaged(file.name) from None


def list_entries(place: Path, file: DumpFile) -> Iterator[Entry]:
    """The blobs that a backup names. Raises BackupError (code backup_damaged)."""
    rest = b""
    for piece in unpack(place, file):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            try:
                tenant, sha256, size = line.decode().split("\t")
                yield Entry(UUID(tenant), sha256, int(size))
            except ValueError:
                raise damaged(file.name) from None


def has_blob(store: BlobStore, entry: Entry) -> bool:
    """Whether a blob is there with its length."""
    try:
        return store.path(entry.tenant_id, entry.sha256).stat().st_size == entry.size_bytes
    except OSError:
        return False


class _OtherBytes(Exception):
    """A blob is not what its name says."""


def copy_blob(source: BlobStore, target: BlobStore, entry: Entry) -> bool:
    """Copy a blob, read once and held against its name. False where the source has none, or one of other bytes.

    Raises Unavailable where the disk is full.
    """
    try:
        file = source.path(entry.tenant_id, entry.sha256).open("rb")
    except FileNotFoundError:
        return False
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != entry.sha256:
            raise _OtherBytes

    with file, suppress(_OtherBytes):
        target.put_pieces(entry.tenant_id, pieces())
        return True
    return False


def remove_backup(place: Path) -> None:
    """Remove a backup: its manifest first, so that it is none from then on."""
    (place / MANIFEST).unlink()
    shutil.rmtree(place)


def remove_strays(store: BlobStore, named: set[str]) -> None:
    """Remove the bytes that no backup names."""
    for number in range(256):
        for tenant_id, names in store.list_shelf(number):
            for name in names:
                if f"{tenant_id.hex}/{name}" not in named:
                    store.path(tenant_id, name).unlink()


def measure_free(path: Path) -> int:
    """Free bytes of the disk on which a folder lies, or is to lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@contextmanager
def _create(path: Path) -> Iterator[IO[bytes]]:
    """A new file for its owner alone, on the disk when the block ends."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
