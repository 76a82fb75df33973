"""Blobs: bytes in a folder, found by their SHA-256, a folder a tenant. Written once, never changed.

Layout: `<root>/<tenant, 32 hexadecimal digits>/<first two digits>/<sha256>`. A name is made by us alone;
nothing that a user wrote becomes part of a path. A blob is there completely or not at all: it is written
beside its place, flushed to the disk and then renamed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO
from uuid import UUID

from batchinfer.errors import Failure, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TENANT = re.compile(r"[0-9a-f]{32}")
_CHUNK_BYTES = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT}


class BlobStore:
    """The blobs of every tenant under one folder. Safe for threads and for several processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, tenant_id: UUID, data: bytes) -> str:
        """Keep bytes and return their SHA-256 (hexadecimal). The same bytes again change nothing.

        Raises Unavailable where the disk is full.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        target = self.path(tenant_id, sha256)
        if not _touch(target):
            with self._writing(target.parent, lambda: target) as file:
                file.write(data)
        return sha256

    def put_file(self, tenant_id: UUID, path: Path) -> str:
        """Take over a file: afterwards it lies here and no longer at `path`. Returns its SHA-256.

        Raises Unavailable where the disk is full.
        """
        with path.open("rb") as source:
            sha256 = self.put_stream(tenant_id, source)
        path.unlink()
        return sha256

    def put_stream(self, tenant_id: UUID, source: IO[bytes]) -> str:
        """Keep what a stream that can be rewound holds, read twice in pieces. Returns its SHA-256.

        Raises Unavailable where the disk is full.
        """
        source.seek(0)
        digest = hashlib.sha256()
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
        target = self.path(tenant_id, digest.hexdigest())
        if not _touch(target):
            source.seek(0)
            with self._writing(target.parent, lambda: target) as file:
                while chunk := source.read(_CHUNK_BYTES):
                    file.write(chunk)
        return digest.hexdigest()

    def put_pieces(self, tenant_id: UUID, pieces: Iterable[bytes]) -> str:
        """Keep what comes in pieces, written as they come. Returns its SHA-256. Where `pieces` raises, nothing is kept.

        Raises Unavailable where the disk is full.
        """
        digest = hashlib.sha256()
        # Its name is known at the end; any shelf serves until then.
        with self._writing(
            self.path(tenant_id, "0" * 64).parent, lambda: self.path(tenant_id, digest.hexdigest())
        ) as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        return digest.hexdigest()

    def keep(self, tenant_id: UUID, sha256: str) -> bool:
        """Whether the blob is here; it counts as just stored from now on."""
        return _touch(self.path(tenant_id, sha256))

    def path(self, tenant_id: UUID, sha256: str) -> Path:
        """Where a blob lies, whether it exists or not. Raises ValueError for what is no SHA-256."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError("a blob is named by 64 lower-case hexadecimal digits")
        return self.root / tenant_id.hex / sha256[:2] / sha256

    def exists(self, tenant_id: UUID, sha256: str) -> bool:
        """Whether the blob is here."""
        return self.path(tenant_id, sha256).is_file()

    def size_bytes(self, tenant_id: UUID, sha256: str) -> int:
        """The length of a blob. Raises Failure (`blob_missing`)."""
        with _missing():
            return self.path(tenant_id, sha256).stat().st_size

    def open(self, tenant_id: UUID, sha256: str) -> BinaryIO:
        """A blob, open for reading; the caller closes it. Raises Failure (`blob_missing`)."""
        with _missing():
            return self.path(tenant_id, sha256).open("rb")

    def read(self, tenant_id: UUID, sha256: str) -> bytes:
        """All bytes of a blob. Raises Failure (`blob_missing`)."""
        with _missing():
            return self.path(tenant_id, sha256).read_bytes()

    def remove_unused(self, tenant_id: UUID, sha256: str, *, unused_s: float) -> bool:
        """Remove a blob that nobody has stored again in the last `unused_s` seconds. True where it is gone.

        Safe beside `put` of the same bytes: it is moved aside first, and moved back where it was touched before that.
        """
        target = self.path(tenant_id, sha256)
        aside = target.with_name(f".old-{os.getpid()}-{sha256}")
        try:
            target.rename(aside)
            if aside.stat().st_mtime > time.time() - unused_s:
                aside.replace(target)  # over the same bytes, should they have come once more
                return False
            aside.unlink()
        except FileNotFoundError:
            pass
        return True

    def list_shelf(self, number: int) -> Iterator[tuple[UUID, list[str]]]:
        """The blobs whose SHA-256 begins with the byte `number`, a list a tenant; what is no blob is left out."""
        for tenant in sorted(self.root.iterdir()) if self.root.is_dir() else []:
            shelf = tenant / f"{number:02x}"
            if _TENANT.fullmatch(tenant.name) and shelf.is_dir():
                yield UUID(tenant.name), sorted(file.name for file in shelf.iterdir() if _SHA256.fullmatch(file.name))

    def tidy_shelf(self, number: int, *, unused_s: float) -> int:
        """Tidy a shelf: move back what a lost process had moved aside, and remove what it left half written, longer ago
        than `unused_s`. Answers how many files. One process at a time."""
        tidied = 0
        for shelf in self.root.glob(f"*/{number:02x}"):
            for file in shelf.glob(".old-*"):
                file.replace(shelf / file.name.rsplit("-", 1)[1])
                tidied += 1
            for file in shelf.glob(".new-*"):
                with suppress(FileNotFoundError):
                    if file.stat().st_mtime < time.time() - unused_s:
                        file.unlink()
                        tidied += 1
        return tidied

    @contextmanager
    def _writing(self, shelf: Path, name: Callable[[], Path]) -> Iterator[IO[bytes]]:
        """A file on `shelf` that gets its `name` when the block ends well, and leaves nothing behind otherwise."""
        try:
            shelf.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=shelf, prefix=".new-", delete=False) as file:
                try:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                    target = name()
                    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    Path(file.name).replace(target)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
            sync_folder(target.parent)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise Unavailable(
                "The disk that keeps the files is full. Free some space on it, then send this again.",
                code="storage_full",
                retry_after_s=60,
            ) from None


def _touch(target: Path) -> bool:
    """Whether a blob is there; it counts as used from now on."""
    try:
        os.utime(target)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's file: ours to read, and as good as a touched one where grace is long
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _missing() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Failure(
            "A file of this job is no longer in the store. Submit the job again with the file.",
            code="blob_missing",
        ) from None
