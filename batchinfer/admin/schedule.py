"""A schedule: when it fires next, what became of its runs, what it declares; run it now, pause, resume, delete it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from flask import request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import ask, finish, name_once
from batchinfer.admin.cron_words import say_fires
from batchinfer.admin.live import render_live
from batchinfer.admin.schedules import STRIP
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.domain.declared import write_text
from batchinfer.domain.schedules import TRANSITIONS, Schedule
from batchinfer.domain.timing import find_clock_change, list_next
from batchinfer.errors import BadRequest
from batchinfer.observe.clock import utc_now
from batchinfer.services import schedules
from batchinfer.store import pages_runs

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from flask import Blueprint, Response
    from werkzeug.wrappers import Response as BaseResponse

    from batchinfer.domain.timing import ClockChange, Timing

#: Instants that are shown ahead.
NEXT = 5
#: Instants on the day of a change of clocks that are told one by one.
FEW = 3


def register(blueprint: Blueprint) -> None:
    """Add the page and its acts."""
    one = "/schedules/<named>"
    blueprint.add_url_rule(one, view_func=show_schedule)
    blueprint.add_url_rule(f"{one}/run", view_func=run_schedule, methods=["POST"])
    blueprint.add_url_rule(f"{one}/pause", view_func=pause_schedule, methods=["POST"])
    blueprint.add_url_rule(f"{one}/resume", view_func=resume_schedule, methods=["POST"])
    blueprint.add_url_rule(f"{one}/delete", view_func=ask_delete_schedule)
    blueprint.add_url_rule(f"{one}/delete", view_func=delete_schedule, methods=["POST"])


def show_schedule(named: str) -> Response:
    """The page of a schedule, by its id or its name. Raises NotFound."""
    context, caller = get_context(), get_caller()
    schedule = schedules.find_schedule(context, caller, named)
    with context.db.transaction() as tx:
        runs = pages_runs.list_newest(tx, caller.tenant_id, [schedule.id], each=STRIP)[schedule.id]
    timing = find_timing(schedule)
    return render_live(
        "schedule.html",
        "_schedule.html",
        schedule=schedule,
        id=ids.show_id(ids.SCHEDULE, schedule.id),
        fires=say_fires(schedule),
        timing=timing,
        zone=ZoneInfo(timing.timezone) if timing else None,
        ahead=list_next(timing, utc_now(), NEXT) if timing else [],
        change=say_change(timing, utc_now()) if timing else None,
        window_s=timing.window.total_seconds() if timing and timing.window else None,
        runs=runs,
        can={verb for verb, (states, _after) in TRANSITIONS.items() if schedule.state in states},
        declared=write_text(schedule.declared),
    )


def find_timing(schedule: Schedule) -> Timing | None:
    """When it fires; None where what was once declared works no more."""
    try:
        return schedule.timing
    except BadRequest:
        return None


def say_change(timing: Timing, now: datetime) -> str | None:
    """What the next change of clocks does to it, as a sentence; None where there is nothing to say."""
    change = find_clock_change(timing, now)
    if change is None:
        return None
    said = _name_change(change, timing)
    if change.shift > timedelta(0):
        text = _("On %(day)s the clocks of %(zone)s go forward by %(minutes)s minutes.", **said)
    else:
        text = _("On %(day)s the clocks of %(zone)s go back by %(minutes)s minutes.", **said)
    return f"{text} {_('It fires at %(times)s that day.', **said)}" if said["times"] else str(text)


def _name_change(change: ClockChange, timing: Timing) -> dict[str, str]:
    zone = ZoneInfo(timing.timezone)
    few = change.instants if len(change.instants) <= FEW else ()
    return {
        "day": f"{change.at.astimezone(zone):%Y-%m-%d}",
        "zone": timing.timezone,
        "minutes": str(abs(int(change.shift.total_seconds())) // 60),
        "times": ", ".join(f"{instant.astimezone(zone):%H:%M}" for instant in few),
    }


def run_schedule(named: str) -> BaseResponse:
    """Begin a run now. The form says which run was the newest: pressed twice from one page, it is one run.

    Raises NotFound, Conflict (code schedule_busy).
    """
    schedule_id = _read_id(named)
    once = name_once(f"/admin/schedules/{schedule_id.hex}/run", request.form.get("newest", ""), "")
    run, replayed = schedules.run_now(get_context(), get_caller(), schedule_id, once)
    if replayed:
        return finish(_("That run had been started already."), _address(schedule_id))
    return finish(_("Run %(run)s was started.", run=ids.show_id(ids.RUN, run.id)), _address(schedule_id))


def pause_schedule(named: str) -> BaseResponse:
    """Let instants pass. Raises NotFound."""
    schedule = schedules.pause_schedule(get_context(), get_caller(), _read_id(named))
    return finish(_("%(name)s is paused: its instants pass.", name=schedule.name), _address(schedule.id))


def resume_schedule(named: str) -> BaseResponse:
    """Fire again. Raises NotFound."""
    schedule = schedules.resume_schedule(get_context(), get_caller(), _read_id(named))
    return finish(_("%(name)s fires again, from the next instant on.", name=schedule.name), _address(schedule.id))


def ask_delete_schedule(named: str) -> Response:
    """The question. Raises NotFound, Forbidden."""
    caller = get_caller()
    caller.require("submit")
    schedule = schedules.find_schedule(get_context(), caller, named)
    return ask(
        _("Delete the schedule %(name)s?", name=schedule.name),
        verb=_("Delete the schedule"),
        text=_(
            "It fires no more. Runs that wait for their turn are cancelled; those that have begun go on, and all are "
            "kept."
        ),
        danger=True,
        back=_address(schedule.id),
    )


def delete_schedule(named: str) -> BaseResponse:
    """Fire it no more. Raises NotFound."""
    context, caller = get_context(), get_caller()
    schedule = schedules.find_schedule(context, caller, named)
    schedules.delete_schedule(context, caller, schedule.id)
    return finish(_("%(name)s was deleted.", name=schedule.name), url_for("admin.show_schedules"))


def _read_id(named: str) -> UUID:
    return ids.parse_id(ids.SCHEDULE, named)


def _address(schedule_id: UUID) -> str:
    return url_for("admin.show_schedule", named=ids.show_id(ids.SCHEDULE, schedule_id))
