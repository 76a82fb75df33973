"""Schedules: when each fires, in words, what its last nights were, and whether it is paused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import request
from flask_babel import gettext as _

from batchinfer.admin.cron_words import say_fires
from batchinfer.admin.live import render_live
from batchinfer.admin.session import get_caller, get_context
from batchinfer.admin.spans import make_address, read_after
from batchinfer.domain import ids
from batchinfer.domain.schedules import ScheduleState
from batchinfer.errors import BadRequest
from batchinfer.services import schedules
from batchinfer.store import pages_runs

if TYPE_CHECKING:
    from flask import Blueprint, Response

    from batchinfer.domain.schedules import Schedule
    from batchinfer.store.pages_runs import RunRow

ROWS = 25
#: Runs in a strip of outcomes.
STRIP = 30


@dataclass(frozen=True)
class Line:
    """A schedule in the list. `fires` in words, None where its timing works no more; `runs` newest first."""

    schedule: Schedule
    fires: str | None
    runs: list[RunRow]


def register(blueprint: Blueprint) -> None:
    """Add the page."""
    blueprint.add_url_rule("/schedules", view_func=show_schedules)
    blueprint.record_once(lambda setup: setup.app.jinja_env.globals.update(_names()))


def _names() -> dict[str, Any]:
    return {
        "show_schedule": lambda value: ids.show_id(ids.SCHEDULE, value),
        "show_run": lambda value: ids.show_id(ids.RUN, value),
    }


def show_schedules() -> Response:
    """The list. Raises BadRequest for a filter that cannot be."""
    context, caller = get_context(), get_caller()
    state, name = _read_state(), request.args.get("name", "").strip()
    page = schedules.list_schedules(
        context, caller, state=state, name=name or None, after=read_after(ids.SCHEDULE), limit=ROWS
    )
    with context.db.transaction() as tx:
        newest = pages_runs.list_newest(tx, caller.tenant_id, [one.id for one in page.data], each=STRIP)
    given = {"state": state and state.value, "name": name}
    older = ids.show_id(ids.SCHEDULE, page.data[-1].id) if page.has_more else None
    return render_live(
        "schedules.html",
        "_schedules.html",
        lines=[Line(one, say_fires(one), newest[one.id]) for one in page.data],
        given=given,
        states=list(ScheduleState),
        older=older and make_address("admin.show_schedules", given, after=older),
        paged="after" in request.args,
    )


def _read_state() -> ScheduleState | None:
    text = request.args.get("state")
    if not text:
        return None
    if text not in set(ScheduleState):
        words = ", ".join(ScheduleState)
        raise BadRequest(_("state must be one of %(words)s, or left out for all.", words=words), param="state")
    return ScheduleState(text)
