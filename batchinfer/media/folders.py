"""Folders of this host as sources: only those that the operator names, and nothing that a link in them leads out to.

A folder is listed in the order of its names, each folder in turn, so that a listing that was cut short goes on behind
the last file it came to. Of a folder with millions of names only some are in memory: it is looked through again for
the next ones.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, unquote_to_bytes

from batchinfer.domain.document_names import make_name
from batchinfer.domain.sources import Entry
from batchinfer.errors import Failure, FetchFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchinfer.domain.globs import Globs
    from batchinfer.settings import Settings

SCHEME = "file://"
#: Names of one folder that are in memory at once.
NAMES_AT_ONCE = 50_000
#: Deepest folder below a source.
_MOST_DEPTH = 200


def parse_folders(settings: Settings) -> list[Path]:
    """The folders that may be read, links resolved."""
    named = [part.strip() for part in settings.source_folders.split(",") if part.strip()]
    return [Path(os.path.realpath(Path(part).expanduser())) for part in named]


def read_path(uri: str) -> Path:
    """The absolute path of a `file://` uri, or of a path as it is. Raises Failure."""
    text = os.fsdecode(unquote_to_bytes(uri.removeprefix(SCHEME))) if uri.startswith(SCHEME) else uri
    if not text.startswith("/") or "\0" in text:
        raise Failure("The folder must be an absolute path such as /data/in, or file:///data/in.",
                      code="invalid_source")  # fmt: skip
    return Path(text)


def show_uri(path: str) -> str:
    """The uri of a file: every byte of its path that is not plain as %XX, so that nothing is lost."""
    return SCHEME + quote(os.fsencode(path))


def open_file(uri: str, settings: Settings) -> BinaryIO:
    """The bytes of a file within the folders that may be read, wherever links lead. Raises Failure, FetchFailed.

    Judged by what was opened, not by its name: a link that is changed in between leads nowhere else.
    """
    path = read_path(uri)
    with told_apart():
        # One that somebody writes to now would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fault = _find_fault(handle, settings)
    if fault is None:
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise fault


def _find_fault(handle: int, settings: Settings) -> Failure | None:
    if not is_within(Path(os.path.realpath(f"/proc/self/fd/{handle}")), parse_folders(settings)):
        return refuse_place()
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        return Failure("The document is no plain file. Put a file in its place.", code="source_not_found")
    return None


def read_file_stamp(uri: str, settings: Settings) -> tuple[int, str]:
    """The size in bytes and the stamp of a file as it is now. Raises Failure, FetchFailed."""
    with open_file(uri, settings) as file:
        found = os.fstat(file.fileno())
    return found.st_size, str(found.st_mtime_ns)


def is_within(real: Path, folders: list[Path]) -> bool:
    """Whether a path without links is one of the folders, or lies in one."""
    return any(real == folder or folder in real.parents for folder in folders)


def refuse_place() -> Failure:
    """The error for a place that no setting names. It does not say what is there."""
    return Failure(
        "This place may not be read. Let the operator name its folder in the setting source_folders, or its bucket in "
        "source_buckets; a link must not lead out of it.",
        code="source_not_allowed",
    )


@contextlib.contextmanager
def told_apart() -> Iterator[None]:
    """What the system says of files, as one of our errors."""
    try:
        yield
    except OSError as error:
        raise name_fault(error) from None


def name_fault(error: OSError) -> Failure:
    """What the system said of a file or folder, as one of our errors."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Failure("The document or its folder is not there. Put it back, or correct the address.",
                       code="source_not_found")  # fmt: skip
    if isinstance(error, PermissionError):
        return Failure("The service may not read it. Let its user or its credentials read the place.",
                       code="source_forbidden")  # fmt: skip
    return FetchFailed("The place did not answer. Look whether its disk or network is there.",
                       code="source_unreachable")  # fmt: skip


@dataclass(frozen=True)
class _Named:
    name: str
    is_folder: bool


class Folder:
    """A folder within those that may be read. Raises Failure where it is not."""

    def __init__(self, uri: str, settings: Settings) -> None:
        self._folders = parse_folders(settings)
        self._root = Path(os.path.realpath(read_path(uri)))
        if not is_within(self._root, self._folders):
            raise refuse_place()

    def check(self) -> None:
        """Go on only where it is there and can be read. Raises Failure, FetchFailed."""
        if self._root.is_file():
            return
        with told_apart(), os.scandir(self._root) as names:
            next(names, None)

    def iterate(self, globs: Globs, after: str | None = None) -> Iterator[Entry]:
        """Its files in order, behind the place of an earlier entry. Raises Failure, FetchFailed."""
        if self._root.is_file():
            found = None if after else self._read(str(self._root), self._root.name)
            if found is not None:
                yield found
            return
        self.check()
        start = os.fsdecode(unquote_to_bytes(after)).split("/") if after else []
        yield from self._walk("", start, globs, 0)
        self.check()  # what vanished on the way was not just empty

    def _walk(self, folder: str, start: list[str], globs: Globs, depth: int) -> Iterator[Entry]:
        """Below `folder` (its path with a slash, or nothing), from behind the path `start` on."""
        first, rest = (start[0], start[1:]) if start else ("", [])
        if start == [""]:
            return  # a folder that could not be listed, and was told of
        if depth > _MOST_DEPTH:
            yield self._refuse(folder, OSError(errno.ELOOP, "too deep"))
            return
        try:
            for one in list_sorted(lambda: self._scan(folder), first):
                path, goes_on = folder + one.name, bool(start) and one.name == first
                if one.is_folder:
                    yield from self._walk(path + "/", rest if goes_on else [], globs, depth + 1)
                elif not goes_on and globs.take(path):
                    found = self._read(os.path.join(self._root, path), path)  # noqa: PTH118 - quicker, for millions
                    if found is not None:
                        yield found
        except FileNotFoundError:
            return  # it went while it was listed: as if it had never been there
        except OSError as error:
            yield self._refuse(folder, error)

    def _scan(self, folder: str) -> Iterator[_Named]:
        with os.scandir(os.path.join(self._root, folder)) as names:  # noqa: PTH118
            for one in names:
                yield _Named(one.name, one.is_dir(follow_symlinks=False))

    def _read(self, whole: str, path: str) -> Entry | None:
        """The file as it is now; None for what is no file, such as a link to a folder."""
        uri, place = show_uri(whole), quote(os.fsencode(path))
        try:
            found = os.stat(whole)  # noqa: PTH116
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        # A file that lies where it is listed needs no look at where it leads.
        error = None
        if os.path.islink(whole) and not is_within(Path(os.path.realpath(whole)), self._folders):  # noqa: PTH114
            error = refuse_place().as_dict()
        return Entry(
            uri, make_name(path, uri), found.st_size, str(found.st_mtime_ns),
            datetime.fromtimestamp(found.st_mtime, UTC), place, error,
        )  # fmt: skip

    def _refuse(self, folder: str, error: OSError) -> Entry:
        """A folder that cannot be listed, as a document that failed: the rest is unharmed, and nobody is deceived."""
        path = folder.rstrip("/")
        uri = show_uri(os.path.join(self._root, path))  # noqa: PTH118
        place = quote(os.fsencode(folder))
        return Entry(uri, make_name(path, uri), None, None, None, place, name_fault(error).as_dict())


def list_sorted(scan: Callable[[], Iterator[_Named]], first: str = "") -> Iterator[_Named]:
    """What a folder holds, from the name `first` on, by name; of any number, some at a time are in memory."""
    last: str | None = None
    while True:
        left = (one for one in scan() if (one.name >= first if last is None else one.name > last))
        found = heapq.nsmallest(NAMES_AT_ONCE, left, key=lambda one: one.name)
        yield from found
        if len(found) < NAMES_AT_ONCE:
            return
        last = found[-1].name
