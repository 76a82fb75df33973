"""Folders of models on this machine: where a revision lies, how its files come in, whether they are what they were.

A revision is fetched into `<revision>.part` beside its place, each file as `<name>.part` until its SHA-256 is right,
and the folder gets its name when all are there: a folder with the revision's own name is whole. What a worker that was
lost has written is gone on with, at the byte where it stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from batchinfer.domain.model_files import INDEX, with_sha256
from batchinfer.errors import Failure, Unavailable
from batchinfer.media.weight_headers import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from batchinfer.domain.model_files import ModelFile
    from batchinfer.settings import Settings

PART = ".part"
_LOCK = ".lock"
_PRUNED = ".pruned"
_PIECE_BYTES = 2**20
#: Left free on the disk beside what a revision takes.
SPARE_BYTES = 512 * 2**20
#: Files up to this size go into the name of a revision whole, larger ones with their first MiB: weights may be 100 GB.
_WHOLE_BYTES = 64 * 2**20


def find_place(settings: Settings, model: str, revision: str) -> Path:
    """Where the files of a revision lie, or will."""
    return settings.models_dir / model / revision


def name_revision(folder: Path) -> str:
    """A name for exactly these files: SHA-256 over their names, sizes and contents, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder)}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(size if size <= _WHOLE_BYTES else 2**20))
    return digest.hexdigest()[:16]


class Digest:
    """What is read of a file while it comes: its SHA-256, and the SHA-1 that Git has for the same bytes."""

    def __init__(self, size_bytes: int) -> None:
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(f"blob {size_bytes}\0".encode(), usedforsecurity=False)

    def update(self, piece: bytes) -> None:
        """The next bytes."""
        self._sha256.update(piece)
        self._git.update(piece)

    def fits(self, file: ModelFile) -> bool:
        """Whether this is the file that was listed, so far as that said."""
        wanted = ((file.sha256, self.sha256), (file.git, self._git.hexdigest()))
        return all(listed is None or listed == found for listed, found in wanted)

    @property
    def sha256(self) -> str:
        """Of all that was read."""
        return self._sha256.hexdigest()


class Incoming:
    """The folder of a revision while it comes in; one process at a time has it. Raises Unavailable where another one
    does, Failure (code disk_full) where the disk takes no more."""

    def __init__(self, final: Path) -> None:
        self.final, self.folder = final, final.with_name(final.name + PART)
        self._lock: int | None = None

    def __enter__(self) -> Incoming:
        with _disk():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.__exit__()
            raise Unavailable("Another process still writes this revision. It is tried again.") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def count_bytes(self, files: Sequence[ModelFile]) -> int:
        """Bytes of these that are here already."""
        return sum(self._count(file) for file in files)

    def check_room(self, files: Sequence[ModelFile]) -> None:
        """Go on only if the disk has room for what is missing. Raises Failure (code disk_full)."""
        missing = sum(file.size_bytes for file in files) - self.count_bytes(files)
        free = shutil.disk_usage(self.folder).free
        if missing + SPARE_BYTES > free:
            raise _make_full(missing, free)

    def find_whole(self, file: ModelFile) -> Path | None:
        """The file, if all of it is here and was checked."""
        path = self.folder / file.name
        return path if path.is_file() and path.stat().st_size == file.size_bytes else None

    def open_part(self, file: ModelFile) -> PartFile:
        """The file, to be gone on with where an earlier process stopped."""
        path = self.folder / (file.name + PART)
        with _disk():
            path.parent.mkdir(parents=True, exist_ok=True)
            return PartFile(path, self.folder / file.name, file)

    def finish(self, files: Sequence[ModelFile]) -> None:
        """Give the folder its name; what is none of these files goes."""
        wanted = {file.name for file in files}
        with _disk():
            for path in sorted(self.folder.rglob("*"), reverse=True):
                if path.is_file() and path.relative_to(self.folder).as_posix() not in wanted:
                    path.unlink()
            if self.final.exists():
                shutil.rmtree(self.final)
            self.folder.rename(self.final)
            _sync(self.final.parent)

    def _count(self, file: ModelFile) -> int:
        for name in (file.name, file.name + PART):
            with contextlib.suppress(OSError):
                return min((self.folder / name).stat().st_size, file.size_bytes)
        return 0


class PartFile:
    """A file that comes in. `at` is how many bytes are here; those of an earlier process are read once, for the
    digest."""

    def __init__(self, path: Path, final: Path, file: ModelFile) -> None:
        self._path, self._final, self._listed = path, final, file
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._digest = Digest(file.size_bytes)
        self.at = 0
        while self.at < file.size_bytes and (piece := self._file.read(_PIECE_BYTES)):
            self._digest.update(piece)
            self.at += len(piece)
        #: Bytes that an earlier process brought.
        self.found = self.at
        if self.at > file.size_bytes:
            self.restart()

    def write(self, piece: bytes) -> None:
        """The next bytes. Raises Failure (code disk_full)."""
        with _disk():
            self._file.write(piece)
        self._digest.update(piece)
        self.at += len(piece)

    def restart(self) -> None:
        """Begin anew: what is here is not the beginning of the file."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = Digest(self._listed.size_bytes)
        self.at = self.found = 0

    def finish(self) -> str | None:
        """All is here: the SHA-256, and the file under its name; None where it is another file than was listed."""
        if self.at != self._listed.size_bytes or not self._digest.fits(self._listed):
            return None
        with _disk():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._path.rename(self._final)
        return self._digest.sha256

    def close(self) -> None:
        """Leave what is here for the next process."""
        with _disk():
            self._file.close()


def hash_file(path: Path, size_bytes: int, look: Callable[[int], bool] = lambda _: True) -> Digest | None:
    """Read a file to its end; `look` hears of each so many bytes, and False ends it. None where it was ended.

    Raises OSError.
    """
    digest = Digest(size_bytes)
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            if not look(len(piece)):
                return None
    return digest


def check_folder(
    folder: Path, files: Sequence[ModelFile], look: Callable[[int], bool] = lambda _: True
) -> tuple[list[ModelFile], str | None]:
    """Read every file again: the files with the SHA-256 that was read, and the first change in words, None where all
    are what they were. `look` hears of each so many bytes; False ends it early, with what was read by then.

    Raises Failure (code weights_truncated).
    """
    read: dict[str, str] = {}
    for file in files:
        path = folder / file.name
        try:
            size = path.stat().st_size
            if size != file.size_bytes:
                return list(files), f"{file.name} has {size:,} bytes and had {file.size_bytes:,}"
            found = hash_file(path, size, look)
        except OSError:
            return list(files), f"{file.name} is gone or cannot be read"
        if found is None:
            break
        if not found.fits(file):
            return list(files), f"{file.name} holds other bytes than it did"
        read[file.name] = found.sha256
    known = {file.name for file in files}
    more = [path.name for path in sorted(folder.glob("*.safetensors")) if path.name not in known]
    if more and INDEX not in known:  # with an index nobody loads it
        return list(files), f"{more[0]} was put beside the files"
    check_weights(folder, files)
    return with_sha256(files, read), None


def check_weights(folder: Path, files: Sequence[ModelFile]) -> None:
    """Go on only if each file of weights is as long as its own header says. Raises Failure (code weights_truncated)."""
    for file in files:
        if file.holds_weights and _measure(folder / file.name) != file.size_bytes:
            raise Failure(
                f"{file.name} is cut short or damaged: it is not as long as its header says. Fetch it again, from a "
                "source where it is whole.", code="weights_truncated",
            )  # fmt: skip


def _measure(path: Path) -> int | None:
    """The length that a safetensors file has by its header; None where it has none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        header, start = read_header(path)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return int(start + max(ends)) if ends else None
    return None


def count_disk(final: Path) -> int:
    """Bytes that a revision takes, fetched, half fetched or half taken away."""
    places = (final, final.with_name(final.name + PART), final.with_name(final.name + _PRUNED))
    return sum(path.stat().st_size for place in places if place.is_dir() for path in place.rglob("*") if path.is_file())


def remove(final: Path) -> None:
    """Take the files of a revision away. The name goes first: nobody finds half of them. Raises Failure."""
    gone = final.with_name(final.name + _PRUNED)
    try:
        for place in (final, final.with_name(final.name + PART)):
            if gone.exists():
                shutil.rmtree(gone)
            if place.is_dir():
                place.rename(gone)
        if gone.exists():
            shutil.rmtree(gone)
        with contextlib.suppress(OSError):  # other revisions are in it
            final.parent.rmdir()
    except OSError:
        raise Failure("The files could not be taken away. Look at the rights of the folder of models.",
                      code="prune_failed") from None  # fmt: skip


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_full(missing: int, free: int) -> Failure:
    short = (missing + SPARE_BYTES - free) // 2**20 + 1
    return Failure(
        f"The revision needs {missing // 2**20:,} MiB more and {SPARE_BYTES // 2**20} to spare, and "
        f"{free // 2**20:,} MiB are free. Free {short:,} MiB (`batchinfer models prune` says what it would free), then "
        "fetch it again.",
        code="disk_full",
    )  # fmt: skip


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """What the disk says, as one of our errors."""
    try:
        yield
    except OSError:
        raise Failure(
            "The disk did not take the file: it is full, or the folder of models may not be written. What came is "
            "kept. Make room, then fetch it again.", code="disk_full",
        ) from None  # fmt: skip
