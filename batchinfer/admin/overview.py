"""Overview: what waits, what runs, what was done, who works, and what went wrong last; charts of a range."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import current_app, make_response, render_template, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import ask, finish
from batchinfer.admin.charts import draw_board
from batchinfer.admin.doctor import find_latest
from batchinfer.admin.live import render_live
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain.jobs import JobState
from batchinfer.domain.ranges import RANGES
from batchinfer.errors import BadRequest
from batchinfer.services import board, fleet, models, scheduling
from batchinfer.store import pages, pages_overview

if TYPE_CHECKING:
    from flask import Blueprint, Response
    from werkzeug.wrappers import Response as BaseResponse

    from batchinfer.domain.ranges import Range

#: Lines of the newest failures, of batches under way and of workers that ended.
FAILURES, BATCHES = 6, 6
DEFAULT_RANGE = "1h"


def register(blueprint: Blueprint) -> None:
    """Add the page, its charts alone, and the acts on all that waits."""
    blueprint.add_url_rule("/", view_func=show_overview)
    blueprint.add_url_rule("/charts", view_func=show_charts)
    blueprint.add_url_rule("/pause", view_func=pause_all, methods=["GET", "POST"])
    blueprint.add_url_rule("/resume", view_func=resume_all, methods=["GET", "POST"])


def show_overview() -> Response:
    """The page. A poll of it brings everything but the charts, which ask for themselves. Raises BadRequest."""
    context, caller = get_context(), get_caller()
    span = _read_range()
    with context.db.transaction() as tx:
        failures, _more = pages.list_rows(tx, caller.tenant_id, state=JobState.FAILED, limit=FAILURES)
        batches = pages_overview.list_live_batches(tx, caller.tenant_id, limit=BATCHES)
    known, workers = models.list_models(context, caller), fleet.list_workers(context, caller)
    polled = bool(request.headers.get("HX-Request"))
    return render_live(
        "overview.html",
        "_overview.html",
        standing=board.read_standing(context, caller),
        at_first=None if polled else {"charts": draw_board(board.read_board(context, caller, span))},
        span=span,
        ranges=RANGES,
        every_ms=_find_pause_ms(span),
        pauses=scheduling.list_pauses(context, caller),
        batches=batches,
        workers=workers,
        alive=[worker for worker in workers if not worker.dead],
        silent_after_s=3 * context.settings.heartbeat_s,
        models=known,
        first_model=known[0].name if known else "docreader",
        failures=failures,
        advice=find_latest().find_worst() if "admin" in caller.scopes else None,
        there=current_app.view_functions,
    )


def show_charts() -> Response:
    """The charts of a range alone. Raises BadRequest."""
    span = _read_range()
    charts = draw_board(board.read_board(get_context(), get_caller(), span))
    return make_response(render_template("_charts.html", charts=charts, span=span, every_ms=_find_pause_ms(span)))


def _read_range() -> Range:
    name = request.args.get("range", DEFAULT_RANGE)
    if name not in RANGES:
        raise BadRequest(f"`range` must be one of {', '.join(RANGES)}.", param="range")
    return RANGES[name]


def _find_pause_ms(span: Range) -> int:
    """How long charts stay as they are: nothing is added to them before the next minute."""
    return min(60, span.step_s // 4) * 1000


def pause_all() -> Response | BaseResponse:
    """Let nothing begin any more, of whatever model. Raises Forbidden."""
    back = url_for("admin.show_overview")
    caller = get_caller()
    caller.require("admin")
    if request.method == "GET":
        text = _("What runs ends as it would; nothing else begins until somebody resumes. Jobs are still taken in.")
        return ask(_("Pause all work?"), text=text, verb=_("Pause all work"), back=back, danger=True)
    scheduling.pause(get_context(), caller)
    return finish(_("All work is paused. Jobs are taken in and wait."), back)


def resume_all() -> Response | BaseResponse:
    """End the pause of everything; pauses of single models stay. Raises Forbidden."""
    back = url_for("admin.show_overview")
    caller = get_caller()
    caller.require("admin")
    if request.method == "GET":
        text = _("What waits begins again. Models that were paused for themselves stay paused.")
        return ask(_("Resume all work?"), text=text, verb=_("Resume all work"), back=back)
    scheduling.resume(get_context(), caller)
    return finish(_("Work goes on."), back)
