"""Where the documents of a run come from: uploaded files, a folder or bucket through fsspec, or a list of addresses."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batchinfer.domain.fields import (
    join,
    read_int,
    read_list,
    read_object,
    read_text,
    read_word,
    refuse,
    refuse_unknown,
)
from batchinfer.domain.globs import compile_globs
from batchinfer.domain.source_dates import check_dates, fill_dates, has_date

if TYPE_CHECKING:
    from datetime import datetime

MAX_URI_CHARS = 2048
MAX_GLOBS, MAX_FILES, MAX_URLS = 100, 10_000, 10_000
MAX_DOCUMENTS = 5_000_000
_FIELDS = (
    "uri", "include", "exclude", "files", "urls", "settle_seconds", "max_documents", "max_bytes", "incremental",
)  # fmt: skip


class Incremental(StrEnum):
    """When a document that an earlier run with the same recipe read is left out."""

    #: Never: everything is read again.
    OFF = "off"
    #: Its size and its etag, or where there is none its time, are the same. No byte of it is read.
    STAMP = "stamp"
    #: As stamp; where the stamp differs, its bytes are read, and it is left out where they are the same.
    CONTENT = "content"


@dataclass(frozen=True)
class Source:
    """Exactly one of `uri`, `files` (their ids) and `urls` is given."""

    uri: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    #: A file younger than this may still be growing, and is left for the next run.
    settle_s: int = 0
    max_documents: int = MAX_DOCUMENTS
    #: Of one document; larger ones fail alone.
    max_bytes: int | None = None
    incremental: Incremental = Incremental.STAMP

    @property
    def has_date(self) -> bool:
        """Whether where it is depends on the day."""
        return self.uri is not None and has_date(self.uri)


@dataclass(frozen=True)
class Entry:
    """A document that was found in a source."""

    #: Exactly what it is.
    uri: str
    #: The path below its source, safe to be shown and to be part of a path.
    name: str
    size_bytes: int | None
    #: The etag, or where there is none the time of the last change. None: a source that says neither.
    stamp: str | None
    modified_at: datetime | None
    #: Where listing goes on behind it.
    place: str
    #: Why it cannot be read, where that is known already: `BatchinferError.as_dict()`.
    error: dict[str, Any] | None = None
    #: Of an uploaded file: its bytes, which lie in the blob store.
    blob: str | None = None
    media_type: str = ""

    @property
    def uri_key(self) -> str:
        """What the ledger knows it by."""
        return make_uri_key(self.uri)


def make_uri_key(uri: str) -> str:
    """The SHA-256 of a uri, hexadecimal: what the ledger knows a document by."""
    return hashlib.sha256(uri.encode()).hexdigest()


def fill_source(source: Source, moment: datetime) -> Source:
    """The source with the dates that it names filled in, for an aware moment in the zone of the clocks that count."""

    def fill(texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(fill_dates(text, moment) for text in texts)

    uri = None if source.uri is None else fill_dates(source.uri, moment)
    return replace(source, uri=uri, include=fill(source.include), exclude=fill(source.exclude), urls=source.urls)


def parse_source(body: object, at: str = "source") -> Source:
    """A source from decoded JSON. Raises BadRequest with the dotted path of the field."""
    given = read_object(body, at)
    refuse_unknown(given, _FIELDS, at)
    named = [name for name in ("uri", "files", "urls") if given.get(name) is not None]
    if len(named) != 1:
        refuse(join(at, "uri"), "or `files` or `urls` must be there, one of the three: say where the documents are.",
               "missing_required_parameter")  # fmt: skip
    uri, size = given.get("uri"), given.get("max_bytes")
    include, exclude = (_read_globs(given.get(name), join(at, name)) for name in ("include", "exclude"))
    compile_globs(include, exclude, at)
    return Source(
        uri=None
        if uri is None
        else check_dates(read_text(uri, join(at, "uri"), max_chars=MAX_URI_CHARS), join(at, "uri")),
        include=include,
        exclude=exclude,
        files=_read_texts(given.get("files"), join(at, "files"), MAX_FILES),
        urls=_read_texts(given.get("urls"), join(at, "urls"), MAX_URLS),
        settle_s=read_int(given.get("settle_seconds", 0), join(at, "settle_seconds"), 0, 86_400),
        max_documents=read_int(given.get("max_documents", MAX_DOCUMENTS), join(at, "max_documents"), 1, MAX_DOCUMENTS),
        max_bytes=None if size is None else read_int(size, join(at, "max_bytes"), 1, 2**40),
        incremental=Incremental(
            read_word(given.get("incremental", "stamp"), join(at, "incremental"), list(Incremental))
        ),
    )


def _read_globs(value: object, at: str) -> tuple[str, ...]:
    return tuple(check_dates(glob, join(at, i)) for i, glob in enumerate(_read_texts(value, at, MAX_GLOBS)))


def _read_texts(value: object, at: str, most: int) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = read_list(value, at)
    if not 1 <= len(texts) <= most:
        refuse(at, f"must have from 1 to {most:,} entries.")
    return tuple(read_text(text, join(at, i), max_chars=MAX_URI_CHARS) for i, text in enumerate(texts))
