"""Where results are written: a folder of this host, or a bucket by way of fsspec. A file is there whole or not at all.

In a folder it is written aside, flushed to the disk and renamed; in a bucket an object appears whole by itself.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

from batchinfer.domain.sinks import Sink, SinkType, is_local
from batchinfer.errors import FetchFailed, Unavailable
from batchinfer.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
#: What is not yet renamed; removed with the last file of a run.
_ASIDE = ".unfinished"
#: Packages that a scheme of fsspec needs, and the extra that brings them.
_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}

_log = get_logger(__name__)


class Target(Protocol):
    """The folder of one run."""

    def put(self, name: str, path: Path) -> None:
        """Write a file under a name below the folder, over what is there. Raises Unavailable, FetchFailed."""

    def tidy(self) -> None:
        """Remove what killed writers left. Never raises."""


def find_missing(sinks: Iterable[Sink]) -> tuple[int, str] | None:
    """The first sink that a package is missing for, by its number from 0, and the extra that brings it."""
    for number, sink in enumerate(sinks):
        if sink.type is SinkType.PARQUET and importlib.util.find_spec("pyarrow") is None:
            return number, "parquet"
        package, extra = _EXTRAS.get(urlsplit(sink.uri or "").scheme, (None, ""))
        if package and importlib.util.find_spec(package) is None:
            return number, extra
    return None


def open_target(uri: str, folder: str, allowed: Iterable[str]) -> Target:
    """The folder `folder` below a sink's address. `allowed` are the folders of this host that may be written to.

    Raises FetchFailed where it leads out of them, Unavailable.
    """
    if not is_local(uri):
        return _Bucket(uri, folder)
    base = os.path.realpath(uri)
    roots = [os.path.realpath(root) for root in allowed]
    if not any(base == root or base.startswith(f"{root.rstrip('/')}/") for root in roots):
        raise _refuse("leads out of the folders that are allowed. Name the folder that it leads to in sink_folders")
    if not Path(base).is_dir():
        raise _refuse("is not there. Make the folder, or mount what it is on")
    return _Folder(Path(base) / folder)


class _Folder:
    """A folder of this host."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, path: Path) -> None:
        target, aside = self._root / name, self._root / _ASIDE / uuid4().hex
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not Path(os.path.realpath(target.parent)).is_relative_to(os.path.realpath(self._root)):
                raise _refuse("has a link in it that leads out of the run's folder. Remove it")
            try:
                with path.open("rb") as source, aside.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                    file.flush()
                    os.fsync(file.fileno())
                aside.replace(target)
            finally:
                aside.unlink(missing_ok=True)
            _flush_folder(target.parent)
        except OSError as error:
            _raise_for(error)

    def tidy(self) -> None:
        shutil.rmtree(self._root / _ASIDE, ignore_errors=True)


class _Bucket:
    """A folder of a bucket."""

    def __init__(self, uri: str, folder: str) -> None:
        import fsspec

        try:
            self._files: Any = fsspec.filesystem(urlsplit(uri).scheme)
        except Exception as error:
            _raise_for(error)
        self._root = f"{uri}/{folder}"

    def put(self, name: str, path: Path) -> None:
        try:
            self._files.put_file(str(path), f"{self._root}/{name}")
        except Exception as error:
            _raise_for(error)

    def tidy(self) -> None:
        """Nothing lies there: an object that was not finished is none."""


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse(sentence: str) -> FetchFailed:
    return FetchFailed(f"A sink {sentence}; then seal the run again.", code="sink_refused")


def _raise_for(error: Exception) -> NoReturn:
    """What a failed write means, in our words: the error of a library may hold a path or a key."""
    if isinstance(error, FetchFailed):
        raise error
    number = error.errno if isinstance(error, OSError) else None
    _log.warning("a sink did not take a file", kind=type(error).__name__, errno=number)
    if number in _FULL:
        raise Unavailable("A sink is full. Make room there; then seal the run again.", code="sink_full") from None
    if isinstance(error, PermissionError) or number in _DENIED:
        raise _refuse("may not be written to. Let the service write there") from None
    if isinstance(error, FileNotFoundError) or number in _MISSING:
        raise _refuse("is not there. Make the folder or bucket") from None
    raise Unavailable("A sink does not answer. It is tried again by itself.", code="sink_unavailable") from None
