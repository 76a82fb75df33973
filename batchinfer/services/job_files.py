"""The jobs that match, as a file: JSON or CSV, one a line, newest first, read some at a time while it is sent."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from batchinfer.domain import ids
from batchinfer.store import job_rows, job_search

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from batchinfer.domain.job_search import JobSearch
    from batchinfer.services.context import Caller, Context
    from batchinfer.store.job_rows import JobLine

#: Lines of one file, and jobs that are looked at for it.
MOST_ROWS, MOST_LOOKS = 50_000, 1_000_000
_PAGE = 200
COLUMNS = (
    "id", "state", "model", "class", "created_at", "started_at", "finished_at", "attempts", "document_id", "page",
    "batch_id", "line", "custom_id", "metadata", "prompt", "answer", "finish_reason", "error_code", "error_message",
)  # fmt: skip
#: What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_jsonl(ctx: Context, caller: Caller, search: JobSearch) -> Iterator[bytes]:
    """The jobs as objects with the fields of COLUMNS, up to MOST_ROWS. Raises Forbidden."""
    caller.require("read")
    return _write(_list_lines(ctx, caller, search), _as_json)


def write_csv(ctx: Context, caller: Caller, search: JobSearch) -> Iterator[bytes]:
    """The same as a table with a header; a text that a spreadsheet would take for a formula begins with '. Raises
    Forbidden."""
    caller.require("read")
    return _write(_list_lines(ctx, caller, search), _as_row, first=_join(COLUMNS))


def _write(lines: Iterator[JobLine], show: Any, first: bytes = b"") -> Iterator[bytes]:
    if first:
        yield first
    for line in lines:
        yield show(_name(line))


def _list_lines(ctx: Context, caller: Caller, search: JobSearch) -> Iterator[JobLine]:
    """Page by page, each in a transaction of its own: whoever reads slowly keeps none open."""
    below: UUID | None = None
    sent = looks = 0
    each = job_search.LOOKS if search.words is None else job_search.LOOKS_AT_TEXTS
    while sent < MOST_ROWS and looks < MOST_LOOKS:
        limit = min(_PAGE, MOST_ROWS - sent)
        with ctx.db.transaction() as tx:
            found = job_search.find_ids(tx, caller.tenant_id, search, below=below, limit=limit)
            lines = job_rows.load_lines(tx, caller.tenant_id, found.ids)
        yield from lines
        sent += len(lines)
        looks += each if found.stopped else len(found.ids)
        below = found.stopped or (found.ids[-1] if found.ids else None)
        if not found.has_more:
            return


def _name(line: JobLine) -> dict[str, Any]:
    owners = ((ids.DOCUMENT, "document_id", line.document_id), (ids.BATCH, "batch_id", line.batch_id))
    shown = {name: ids.show_id(prefix, value) if value else None for prefix, name, value in owners}
    times = {name: at.isoformat() if (at := getattr(line, name)) else None for name in COLUMNS if name.endswith("_at")}
    error = line.error or {}
    values = {name: getattr(line, name, None) for name in COLUMNS} | shown | times
    return values | {
        "id": ids.show_id(ids.JOB, line.id), "class": line.job_class, "error_code": error.get("code"),
        "error_message": error.get("message"),
    }  # fmt: skip


def _as_json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _as_row(values: dict[str, Any]) -> bytes:
    values = values | {"metadata": json.dumps(values["metadata"], ensure_ascii=False) if values["metadata"] else ""}
    return _join([_defuse(values[name]) for name in COLUMNS])


def _defuse(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _join(cells: Any) -> bytes:
    file = io.StringIO()
    csv.writer(file).writerow(cells)
    return file.getvalue().encode()
