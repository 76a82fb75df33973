"""Where models are fetched from, behind one seam: hubs, buckets, and folders that are read where they lie."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from batchinfer.domain.globs import compile_globs
from batchinfer.domain.model_files import Listing, ModelFile, find_small, pin_files
from batchinfer.domain.registry import SourceKind
from batchinfer.errors import Failure, FetchFailed
from batchinfer.media.buckets import Bucket
from batchinfer.media.folders import is_within, parse_folders, refuse_place
from batchinfer.media.hubs import HuggingFace, ModelScope, mismatch
from batchinfer.media.model_folders import name_revision

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from batchinfer.domain.registry import ModelSource
    from batchinfer.media.outward import Door
    from batchinfer.settings import Settings

_PIECE_BYTES = 2**20


class Place(Protocol):
    """A source that was opened. Everything may raise Failure, and FetchFailed where another try may pass."""

    def list(self) -> Listing: ...

    def read(self, file: ModelFile, start: int) -> AbstractContextManager[tuple[int, Iterator[bytes]]]: ...


def open_source(source: ModelSource, settings: Settings, door: Door | None = None, *, anywhere: bool = False) -> Place:
    """The place of a source. `anywhere` lets it be any folder of this machine: who asks may read them all the same."""
    if source.kind is SourceKind.FOLDER:
        return FolderPlace(Path(source.at), settings, anywhere=anywhere)
    if source.kind is SourceKind.BUCKET:
        return BucketPlace(source.at, settings)
    return (HuggingFace if source.kind is SourceKind.HUGGING_FACE else ModelScope)(source, settings, door)


class FolderPlace:
    """A folder of this machine. Its files stay where they are: fetching it reads them."""

    def __init__(self, path: Path, settings: Settings, *, anywhere: bool = False) -> None:
        allowed = [*parse_folders(settings), Path(os.path.realpath(settings.models_dir))]
        if not anywhere and not is_within(Path(os.path.realpath(path)), allowed):
            raise refuse_place()
        self._path = path

    def list(self) -> Listing:
        """Its files with their sizes. What pins them is their sizes and the contents of the small ones; the SHA-256 of
        all is read when it is fetched."""
        try:
            files = [ModelFile(path.relative_to(self._path).as_posix(), path.stat().st_size)
                     for path in sorted(self._path.rglob("*")) if path.is_file()]  # fmt: skip
        except OSError:
            files = []
        if not files:
            raise Failure("There is no such folder, or nothing in it. Correct its path.", code="source_not_found")
        return Listing(name_revision(self._path), tuple(files))

    @contextlib.contextmanager
    def read(self, file: ModelFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes of a file."""
        try:
            with (self._path / file.name).open("rb") as opened:
                opened.seek(start)
                yield start, iter(lambda: opened.read(_PIECE_BYTES), b"")
        except OSError:
            raise Failure(f"{file.name} cannot be read any more. Put it back.", code="source_not_found") from None


class BucketPlace:
    """A folder in a bucket that the operator named. Its objects' stamps pin the revision."""

    def __init__(self, uri: str, settings: Settings) -> None:
        self._uri, self._settings = uri.rstrip("/"), settings
        self._bucket = Bucket(self._uri, settings)

    def list(self) -> Listing:
        """Its objects with their sizes and stamps."""
        base = len(self._uri) + 1
        globs = compile_globs((), (), "source")
        files = [ModelFile(entry.uri[base:], entry.size_bytes or 0, stamp=entry.stamp)
                 for entry in self._bucket.iterate(globs)]  # fmt: skip
        if not files:
            raise Failure("There is nothing in this folder of the bucket. Correct the address.",
                          code="source_not_found")  # fmt: skip
        return Listing(pin_files(files), tuple(files))

    @contextlib.contextmanager
    def read(self, file: ModelFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes of an object, if it is still the one that was listed."""
        bucket = Bucket(f"{self._uri}/{file.name}", self._settings)
        if bucket.read_stamp() != (file.size_bytes, file.stamp):
            raise mismatch(file)
        with bucket.open(start) as opened:
            yield start, iter(lambda: opened.read(_PIECE_BYTES), b"")


def read_small(place: Place, listing: Listing) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The small files of a listing: JSON objects by name, and the texts of the others. Raises Failure, FetchFailed."""
    configs: dict[str, dict[str, Any]] = {}
    texts: dict[str, str] = {}
    for file in find_small(listing.files):
        with place.read(file, 0) as (_, pieces):
            raw = b"".join(pieces)
        if len(raw) != file.size_bytes:
            raise FetchFailed("A file of the source ended early. It is read again later.", code="hub_unreachable")
        if not file.name.endswith(".json"):
            texts[file.name] = raw.decode("utf-8", "replace")
            continue
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(raw)
            if isinstance(found, dict):
                configs[file.name] = found
                continue
        raise Failure(f"{file.name} of the source is not a JSON object.", code="config_unreadable")
    return configs, texts
