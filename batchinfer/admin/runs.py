"""Runs: what became of each instant and of what was run by hand; a list that the address alone decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.live import render_live
from batchinfer.admin.session import get_caller, get_context
from batchinfer.admin.spans import make_address, read_after, read_span
from batchinfer.domain import ids
from batchinfer.domain.runs import RunState
from batchinfer.errors import BadRequest
from batchinfer.services import schedules
from batchinfer.store import pages_runs

if TYPE_CHECKING:
    from batchinfer.store.pages_runs import RunRow

ROWS = 50
#: Schedules that can be chosen among.
MOST_SCHEDULES = 200


def register(blueprint: Blueprint) -> None:
    """Add the page."""
    blueprint.add_url_rule("/runs", view_func=show_runs)
    blueprint.add_app_template_global(find_run_address, "run_address")


def show_runs() -> Response:
    """The list. Raises BadRequest for a filter that cannot be."""
    context, caller, span = get_context(), get_caller(), read_span()
    schedule_id, state = read_after(ids.SCHEDULE, "schedule"), read_state()
    known = schedules.list_schedules(context, caller, limit=MOST_SCHEDULES).data
    with context.db.transaction() as tx:
        rows, has_more = pages_runs.list_rows(
            tx, caller.tenant_id, schedule_id=schedule_id, state=state, since=span.since, until=span.until,
            after=read_after(ids.RUN), limit=ROWS,
        )  # fmt: skip
    given: dict[str, Any] = {"schedule": request.args.get("schedule"), "state": state and state.value, **span.said}
    return render_live(
        "runs.html",
        "_runs.html",
        rows=rows,
        schedules=[(ids.show_id(ids.SCHEDULE, one.id), one.name) for one in known],
        given=given,
        states=list(RunState),
        address=lambda **changes: make_address("admin.show_runs", given, **changes),
        older=make_address("admin.show_runs", given, after=ids.show_id(ids.RUN, rows[-1].id)) if has_more else None,
        paged="after" in request.args,
    )


def read_state() -> RunState | None:
    """The state of the address. Raises BadRequest."""
    text = request.args.get("state")
    if not text:
        return None
    if text not in set(RunState):
        words = ", ".join(RunState)
        raise BadRequest(_("state must be one of %(words)s, or left out for all.", words=words), param="state")
    return RunState(text)


def find_run_address(row: RunRow) -> str:
    """Where a run is shown: as its batch, which has its id; where it has none, in the list beside its neighbours."""
    if row.begun:
        return url_for("admin.show_batch", batch_id=ids.show_id(ids.BATCH, row.id))
    beside: dict[str, Any] = {"schedule": ids.show_id(ids.SCHEDULE, row.schedule_id)} if row.schedule_id else {}
    return url_for("admin.show_runs", _anchor=ids.show_id(ids.RUN, row.id), **beside)
