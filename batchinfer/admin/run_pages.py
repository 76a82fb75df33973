"""The documents of a run: how each ended, and its pages in Jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request, url_for

from batchinfer.admin.batch import find_own
from batchinfer.admin.live import render_live
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.domain.fields import read_word
from batchinfer.domain.runs import TERMINAL
from batchinfer.errors import BadRequest, NotFound
from batchinfer.services import run_documents

if TYPE_CHECKING:
    from uuid import UUID

ROWS = 50


def register(blueprint: Blueprint) -> None:
    """Add the page."""
    blueprint.add_url_rule("/batches/<batch_id>/documents", view_func=show_run_documents)


def show_run_documents(batch_id: str) -> Response:
    """The list, in the order of the listing. Raises NotFound, BadRequest for a filter that cannot be."""
    _row, run = find_own(batch_id)
    if run is None:
        raise NotFound("Only a run over documents has a list of them. The lines of this batch are in Jobs.")
    stage, outcome, after = _read("stage", run_documents.STAGES), _read("outcome", run_documents.OUTCOMES), _after()
    page = run_documents.list_run_documents(
        get_context(), get_caller(), run.id, stage=stage, outcome=outcome, after=after, limit=ROWS
    )

    def address(**values: str | None) -> str:
        given: dict[str, Any] = {name: value for name, value in values.items() if value}
        return url_for("admin.show_run_documents", batch_id=batch_id, **given)

    last = ids.show_id(ids.DOCUMENT, page.data[-1].id) if page.data else None
    return render_live(
        "run_documents.html",
        "_run_documents.html",
        batch_id=batch_id,
        run=run,
        ended=run.state in TERMINAL,
        documents=page.data,
        stage=stage,
        outcome=outcome,
        outcomes=run_documents.OUTCOMES,
        stages=run_documents.STAGES,
        address=address,
        first=address(stage=stage, outcome=outcome) if after else None,
        further=address(stage=stage, outcome=outcome, after=last) if page.has_more else None,
    )


def _read(name: str, words: tuple[str, ...]) -> str | None:
    said = request.args.get(name)
    return read_word(said, name, words) if said else None


def _after() -> UUID | None:
    text = (request.args.get("after") or "").strip()
    try:
        return ids.parse_id(ids.DOCUMENT, text) if text else None
    except NotFound as error:
        raise BadRequest(f"after: {error.message}", param="after") from None
