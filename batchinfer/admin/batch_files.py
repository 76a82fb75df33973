"""What a batch wrote, to be downloaded, and the report of a run as a page of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from flask import Blueprint, Response

from batchinfer.admin.batch import find_own
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.errors import NotFound
from batchinfer.services import reports, userfiles
from batchinfer.services.report_page import CSP, render_report

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.runs import Run
    from batchinfer.store.pages_batches import BatchRow

#: Names of files that a batch itself has.
_OWN = ("output", "errors", "input")


def register(blueprint: Blueprint) -> None:
    """Add the addresses, and for templates the names of the files that are there."""
    blueprint.add_app_template_global(list_files, "list_batch_files")
    blueprint.add_url_rule("/batches/<batch_id>/files/<name>", view_func=send_batch_file)
    blueprint.add_url_rule("/batches/<batch_id>/report", view_func=show_report)


def list_files(row: BatchRow, run: Run | None) -> list[str]:
    """Names of the files that a batch has now, as their addresses end."""
    batch = row.batch
    there = {"output": batch.output_file_id, "errors": batch.error_file_id, "input": batch.input_file_id}
    return [name for name in _OWN if there[name]] + sorted(run.files if run else ())


def send_batch_file(batch_id: str, name: str) -> Response:
    """A file of a batch, always as a download. Raises NotFound."""
    row, run = find_own(batch_id)
    file_id = _find_file(row, run, name)
    if file_id is None:
        raise NotFound("This batch has no such file, or none yet.", code="file_not_found")
    _file, pieces = userfiles.open_file(get_context(), get_caller(), file_id)
    response = Response(pieces, content_type="application/octet-stream")
    ending = f"{name}.jsonl" if name in _OWN else re.sub(r"[^A-Za-z0-9._-]", "_", name)
    response.headers["Content-Disposition"] = f'attachment; filename="{batch_id}_{ending}"'
    return response


def _find_file(row: BatchRow, run: Run | None, name: str) -> UUID | None:
    batch = row.batch
    own = {"output": batch.output_file_id, "errors": batch.error_file_id, "input": batch.input_file_id}
    if name in own:
        return own[name]
    shown = run.files.get(name) if run else None
    return ids.parse_id(ids.FILE, shown) if shown else None


def show_report(batch_id: str) -> Response:
    """The report of a run as it stands. A page without scripts, in a sandbox of its own. Raises NotFound."""
    _row, run = find_own(batch_id)
    if run is None:
        raise NotFound("Only a run over documents has a report. The page of this batch says all there is to it.")
    context, caller = get_context(), get_caller()
    report = reports.get_report(context, caller, run.id)
    page = render_report(report, reports.load_thumbnails(context, caller.tenant_id, report))
    response = Response(page.encode("utf-8", "replace"), content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = CSP
    return response
