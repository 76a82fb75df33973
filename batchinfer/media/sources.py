"""Where documents of runs are read from: folders, buckets and addresses. Uploaded files lie in the blob store already.

What may be read is the operator's word (the settings `source_folders`, `source_buckets` and `fetch_hosts`), asked again
each time that something is opened.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from batchinfer.domain.document_names import make_name, tell_apart
from batchinfer.domain.fetching import SCHEMES, find_fetch_rules, parse_fetch_url
from batchinfer.domain.fields import join, refuse
from batchinfer.domain.globs import compile_globs
from batchinfer.domain.sources import Entry
from batchinfer.errors import BadRequest, Failure, FetchFailed
from batchinfer.media.buckets import Bucket
from batchinfer.media.fetching import Fetcher
from batchinfer.media.folders import SCHEME, Folder, open_file, read_file_stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchinfer.domain.sources import Source
    from batchinfer.settings import Settings

_WILD = frozenset("*?")


def check_source(source: Source, settings: Settings, at: str = "source") -> None:
    """Refuse what can be known to be wrong with a source: where it is, whether it may be read, whether it is there.

    A place that does not answer at the moment is no reason to refuse, nor is a folder whose name is a day's. Raises
    BadRequest with the field.
    """
    for number, url in enumerate(source.urls):
        rules, where = find_fetch_rules(settings), join(join(at, "urls"), number)
        if rules is None:
            refuse(where, "is an address, and fetching is off. Upload the file, or let the operator name its host in "
                   "the setting fetch_hosts.", "source_not_allowed")  # fmt: skip
        parse_fetch_url(url, rules, param=where)
    if source.uri is None:
        return
    base, wild = split_globs(source.uri)
    if wild:
        compile_globs(wild, (), at)
        if source.include:
            refuse(f"{at}.include", "is beside a glob in `uri`. Say what is wanted in one of the two.")
    try:
        place = open_place(base, settings)
        if not source.has_date:
            place.check()
    except FetchFailed:
        return
    except Failure as fault:
        raise BadRequest(f"`{at}.uri`: {fault.message}", code=fault.code, param=f"{at}.uri") from None


def iterate_source(source: Source, settings: Settings, after: str | None = None) -> Iterator[Entry]:
    """What is in a source whose dates are filled in, in an order of its own, behind the `place` of an earlier entry.

    Never all of it in memory. Raises Failure where it cannot be read, FetchFailed where that may pass.
    """
    if source.uri is not None:
        base, wild = split_globs(source.uri)
        globs = compile_globs(source.include or wild, source.exclude)
        yield from open_place(base, settings).iterate(globs, after)
        return
    named = tell_apart(make_name(unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2] or "document", url)
                       for url in source.urls)  # fmt: skip
    for number, (url, name) in enumerate(zip(source.urls, named, strict=True)):
        if number >= int(after or 0):
            yield Entry(url, name, None, None, None, str(number + 1))


@contextlib.contextmanager
def open_source(uri: str, settings: Settings) -> Iterator[BinaryIO]:
    """The bytes of a listed document, from their beginning. Raises Failure, FetchFailed, BadRequest."""
    if uri.lower().startswith(SCHEMES):
        with tempfile.TemporaryDirectory(prefix="batchinfer-fetch-") as folder:
            target = Path(folder) / "fetched"
            Fetcher(settings).fetch(uri, target, param="source.urls")
            with target.open("rb") as file:
                yield file
        return
    with open_file(uri, settings) if uri.startswith(SCHEME) else Bucket(uri, settings).open() as file:
        yield file


def read_stamp(uri: str, settings: Settings) -> tuple[int | None, str | None]:
    """The size in bytes and the stamp of a listed document as it is now: another one than was listed means that it was
    changed. (None, None) for an address, of which nothing is known before it is read. Raises Failure, FetchFailed."""
    if uri.lower().startswith(SCHEMES):
        return None, None
    return read_file_stamp(uri, settings) if uri.startswith(SCHEME) else Bucket(uri, settings).read_stamp()


def open_place(uri: str, settings: Settings) -> Folder | Bucket:
    """The folder or bucket at an address, if it may be read. Raises Failure."""
    if uri.lower().startswith(SCHEMES):
        raise Failure("Addresses of single documents are listed in `urls`.", code="invalid_source")
    return Folder(uri, settings) if uri.startswith((SCHEME, "/")) else Bucket(uri, settings)


def split_globs(uri: str) -> tuple[str, tuple[str, ...]]:
    """The place before the first part of an address with `*` or `?`, and what follows as a glob."""
    parts = uri.split("/")
    wild = next((number for number, part in enumerate(parts) if _WILD & set(part)), None)
    if wild is None:
        return uri, ()
    # Anchored: one of a single part means the files of this folder, not all below it.
    return "/".join(parts[:wild]) or "/", ("/" + "/".join(parts[wild:]),)
