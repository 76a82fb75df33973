"""The files of a shard, one writer a type of sink: rows in, one page in memory at a time, bytes on the disk.

The same rows make the same bytes: no time, no random name and no order of a hash is in them.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

from batchinfer.domain.ids import DOCUMENT, show_id
from batchinfer.domain.relative_names import make_relative
from batchinfer.domain.shards import (
    encode_line,
    guard_cell,
    name_columns,
    show_cells,
    show_line,
    show_markdown,
    show_markdown_head,
)
from batchinfer.domain.sinks import SinkType

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchinfer.domain.shards import ShardDocument, ShardPage

#: Pages that a table of Parquet holds in memory before they are written.
_PARQUET_ROWS = 200


@dataclass(frozen=True)
class Form:
    """What all files of a run have in common: whether answers are JSON, and the fields of their schema."""

    as_json: bool = False
    fields: tuple[str, ...] = ()


class Writer(Protocol):
    """Takes the pages of one document after another."""

    def begin(self, document: ShardDocument, *, twin: bool) -> None:
        """The pages that come are this document's; `twin`: an earlier one of the run has the same name."""

    def add(self, document: ShardDocument, page: ShardPage) -> None:
        """One page."""

    def close(self) -> None:
        """There are no more: the file is whole."""

    def abort(self) -> None:
        """Let go of the file, whole or not; also after `close`."""


class JsonlWriter:
    """A line of JSON a page."""

    def __init__(self, path: Path, form: Form) -> None:
        self._file, self._form = path.open("wb"), form

    def begin(self, document: ShardDocument, *, twin: bool) -> None:
        """Nothing stands between documents."""

    def add(self, document: ShardDocument, page: ShardPage) -> None:
        self._file.write(encode_line(show_line(document, page, as_json=self._form.as_json)))

    def close(self) -> None:
        self._file.close()

    def abort(self) -> None:
        self._file.close()


class CsvWriter:
    """A row a page, as RFC 4180 has it, and no cell that a spreadsheet would run."""

    def __init__(self, path: Path, form: Form) -> None:
        self._file: IO[str] = path.open("w", encoding="utf-8", errors="replace", newline="")
        self._form, self._rows = form, csv.writer(self._file)
        self._rows.writerow([guard_cell(name) for name in name_columns(form.fields)])

    def begin(self, document: ShardDocument, *, twin: bool) -> None:
        """Nothing stands between documents."""

    def add(self, document: ShardDocument, page: ShardPage) -> None:
        self._rows.writerow([guard_cell(cell) for cell in show_cells(document, page, self._form.fields)])

    def close(self) -> None:
        self._file.close()

    def abort(self) -> None:
        self._file.close()


_WHOLE = frozenset({"number", "page", "prompt_tokens", "completion_tokens", "attempts"})


class ParquetWriter:
    """A row a page, in groups; the fields of the answer are texts, as a schema of JSON has no columns."""

    def __init__(self, path: Path, form: Form) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        names = name_columns(form.fields)
        # pyarrow's schema needs each name once; a field of an answer has no name of ours (`name_columns`).
        kinds = [(name, pa.int64() if name in _WHOLE else pa.string()) for name in names]
        self._arrow, self._form, self._names = pa, form, names
        self._schema = pa.schema(kinds)
        self._writer = parquet.ParquetWriter(str(path), self._schema, compression="zstd")
        self._rows: list[list[Any]] = []

    def begin(self, document: ShardDocument, *, twin: bool) -> None:
        """Nothing stands between documents."""

    def add(self, document: ShardDocument, page: ShardPage) -> None:
        self._rows.append(show_cells(document, page, self._form.fields))
        if len(self._rows) >= _PARQUET_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def abort(self) -> None:
        self._writer.close()

    def _flush(self) -> None:
        columns = []
        for place, name in enumerate(self._names):
            cells = [row[place] for row in self._rows]
            columns.append([_as_text(cell) for cell in cells] if name not in _WHOLE else cells)
        arrays = [self._arrow.array(c, type=f.type) for c, f in zip(columns, self._schema, strict=True)]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows = []


def _as_text(cell: Any) -> str | None:
    if cell is None:
        return None
    text = cell if isinstance(cell, str) else json.dumps(cell)
    return text.encode("utf-8", "replace").decode()


class MarkdownWriter:
    """A file a document at its relative path, handed to `publish` as soon as it is whole; and beside these, for the
    manifest, a line of JSON a file."""

    def __init__(self, path: Path, publish: Callable[[str, Path], None]) -> None:
        self._index, self._publish, self._page_file = path.open("wb"), publish, path.with_suffix(".md")
        self._file: IO[bytes] | None = None
        self._name, self._document_id = "", ""
        self._digest, self._size = hashlib.sha256(), 0

    def begin(self, document: ShardDocument, *, twin: bool) -> None:
        self._end()
        self._name = make_relative(document.name, twin=document.number if twin else None) + ".md"
        self._document_id = show_id(DOCUMENT, document.id)
        self._file, self._digest, self._size = self._page_file.open("wb"), hashlib.sha256(), 0
        self._write(show_markdown_head(document))

    def add(self, document: ShardDocument, page: ShardPage) -> None:  # noqa: ARG002 - that of `begin`
        self._write(show_markdown(page))

    def close(self) -> None:
        self._end()
        self._index.close()

    def abort(self) -> None:
        self._index.close()
        if self._file is not None:
            self._file.close()

    def _write(self, text: str) -> None:
        if self._file is not None:
            raw = text.encode("utf-8", "replace")
            self._size += self._file.write(raw)
            self._digest.update(raw)

    def _end(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._file = None
        self._publish(self._name, self._page_file)
        entry = {"name": self._name, "bytes": self._size, "sha256": self._digest.hexdigest()}
        self._index.write(encode_line({**entry, "document_id": self._document_id}))


def open_writer(kind: SinkType, path: Path, form: Form, publish: Callable[[str, Path], None]) -> Writer:
    """The writer of a sink. Raises KeyError for a type that writes no files."""
    if kind is SinkType.MARKDOWN:
        return MarkdownWriter(path, publish)
    writers: dict[SinkType, Callable[[Path, Form], Writer]] = {
        SinkType.JSONL: JsonlWriter, SinkType.CSV: CsvWriter, SinkType.PARQUET: ParquetWriter,
    }  # fmt: skip
    return writers[kind](path, form)


def name_shard_file(kind: SinkType, number: int) -> str:
    """The name of a shard's file in the folder of its run."""
    if kind is SinkType.MARKDOWN:
        return f"_index/documents-{number:05}.jsonl"
    return f"pages-{number:05}.{kind.value}"


def measure_file(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return path.stat().st_size, digest.hexdigest()


def make_bytes(value: dict[str, Any]) -> bytes:
    """JSON for people and programs, the same for the same value."""
    return json.dumps(value, ensure_ascii=False, indent=2).encode("utf-8", "replace") + b"\n"
