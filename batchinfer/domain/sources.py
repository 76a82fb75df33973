"""Where the documents of a run come from: uploaded files, a folder or bucket through fsspec, or a list of addresses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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


def parse_source(body: object, at: str = "source") -> Source:
    """A source from decoded JSON. Raises BadRequest with the dotted path of the field."""
    given = read_object(body, at)
    refuse_unknown(given, _FIELDS, at)
    named = [name for name in ("uri", "files", "urls") if given.get(name) is not None]
    if len(named) != 1:
        refuse(join(at, "uri"), "or `files` or `urls` must be there, one of the three: say where the documents are.",
               "missing_required_parameter")  # fmt: skip
    uri, size = given.get("uri"), given.get("max_bytes")
    return Source(
        uri=None if uri is None else read_text(uri, join(at, "uri"), max_chars=MAX_URI_CHARS),
        include=_read_texts(given.get("include"), join(at, "include"), MAX_GLOBS),
        exclude=_read_texts(given.get("exclude"), join(at, "exclude"), MAX_GLOBS),
        files=_read_texts(given.get("files"), join(at, "files"), MAX_FILES),
        urls=_read_texts(given.get("urls"), join(at, "urls"), MAX_URLS),
        settle_s=read_int(given.get("settle_seconds", 0), join(at, "settle_seconds"), 0, 86_400),
        max_documents=read_int(given.get("max_documents", MAX_DOCUMENTS), join(at, "max_documents"), 1, MAX_DOCUMENTS),
        max_bytes=None if size is None else read_int(size, join(at, "max_bytes"), 1, 2**40),
        incremental=Incremental(
            read_word(given.get("incremental", "stamp"), join(at, "incremental"), list(Incremental))
        ),
    )


def _read_texts(value: object, at: str, most: int) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = read_list(value, at)
    if not 1 <= len(texts) <= most:
        refuse(at, f"must have from 1 to {most:,} entries.")
    return tuple(read_text(text, join(at, i), max_chars=MAX_URI_CHARS) for i, text in enumerate(texts))
