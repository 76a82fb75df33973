"""Files where a run finds them: opened for reading, and what can be known of them without reading. Local files only."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import fsspec

from batchinfer.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchinfer.settings import Settings


@contextmanager
def open_source(uri: str, settings: Settings) -> Iterator[IO[bytes]]:
    """The bytes of a file. Raises OSError as `open` does, and Failure (`source_unsupported`) for what is no local
    file."""
    del settings  # what may be read is not asked yet
    with fsspec.open(_find_path(uri), "rb") as file:
        yield file


def read_stamp(uri: str, settings: Settings) -> tuple[int | None, str | None]:
    """Length in bytes and the time of the last change, in nanoseconds. Raises as `open_source`."""
    del settings
    facts = Path(_find_path(uri)).stat()
    return facts.st_size, str(facts.st_mtime_ns)


def _find_path(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return unquote(parts.path)
    if "://" in uri:
        raise Failure("Files of this kind of address cannot be read here.", code="source_unsupported")
    return uri
