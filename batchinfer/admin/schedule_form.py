"""A schedule as a form: its timing field by field, the deep parts as YAML that the API's own parser reads.

What is refused is shown again as it was typed, with the error beside its field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zoneinfo import available_timezones

from flask import make_response, render_template, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import finish
from batchinfer.admin.language import find_zone_name
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.domain.declared import Unreadable, find_line, read_text, write_text
from batchinfer.domain.schedules import OWN_FIELDS, parse_schedule
from batchinfer.domain.timing import AtDeadline, Misfire, Overlap, list_next
from batchinfer.errors import BadRequest, BatchinferError, Conflict, NotFound
from batchinfer.observe.clock import utc_now
from batchinfer.services import models, previewing, schedules

if TYPE_CHECKING:
    from flask import Blueprint, Response
    from werkzeug.wrappers import Response as BaseResponse

    from batchinfer.domain.schedules import Schedule

TIMING = ("cron", "timezone", "window", "jitter_seconds", "misfire", "overlap", "at_deadline")
#: Parts that are YAML; `needed` first.
PARTS = ("source", "pipeline", "sinks", "sample", "metadata")
CHOICES = {"misfire": list(Misfire), "overlap": list(Overlap), "at_deadline": list(AtDeadline)}
#: Characters of one part: prompts are long, but not that long.
MOST_CHARS = 100_000
NEXT = 5


@dataclass
class Form:
    """What stands in the fields, by name; and what is wrong with one of them."""

    values: dict[str, str]
    enabled: bool = True
    error: BatchinferError | None = None
    #: The field that the error is about; None where it is about none that is here.
    wrong: str | None = None
    #: Where in a part that is YAML.
    line: int | None = None
    nodes: dict[str, Any] = field(default_factory=dict)

    def blame(self, error: BatchinferError) -> None:
        """Find the field that an error is about."""
        self.error, param = error, error.param or ""
        head, _dot, rest = param.partition(".")
        if head == "timing":
            self.wrong = rest if rest in TIMING else "cron"
        elif head in (*PARTS, "name"):
            self.wrong = head
        if self.line is None and self.wrong in self.nodes:
            self.line = find_line(self.nodes[self.wrong], rest)


def register(blueprint: Blueprint) -> None:
    """Add the two forms."""
    blueprint.add_url_rule("/schedules/new", view_func=show_new_schedule)
    blueprint.add_url_rule("/schedules/new", view_func=create_schedule, methods=["POST"])
    blueprint.add_url_rule("/schedules/<named>/edit", view_func=show_edit_schedule)
    blueprint.add_url_rule("/schedules/<named>/edit", view_func=change_schedule, methods=["POST"])


def show_new_schedule() -> Response:
    """The form with an example in it. Raises Forbidden."""
    get_caller().require("submit")
    return _render(Form(_make_example()))


def create_schedule() -> BaseResponse:
    """Keep it, or say what it would do, or what is wrong with it."""
    return _take(None)


def show_edit_schedule(named: str) -> Response:
    """The form with what is declared in it. Raises NotFound, Forbidden."""
    caller = get_caller()
    caller.require("submit")
    schedule = schedules.find_schedule(get_context(), caller, named)
    return _render(Form(_show_declared(schedule)), schedule)


def change_schedule(named: str) -> BaseResponse:
    """Change it, or say what it would do, or what is wrong with it. Raises NotFound."""
    return _take(schedules.find_schedule(get_context(), get_caller(), named))


def _take(schedule: Schedule | None) -> BaseResponse:
    context, caller = get_context(), get_caller()
    caller.require("submit")
    form = Form({name: request.form.get(name, "") for name in ("name", "version", *TIMING, *PARTS)})
    form.enabled = "enabled" in request.form
    try:
        body = _read_body(form)
        if request.form.get("act") == "preview":
            return _render(form, schedule, preview=_preview(body))
        if schedule is None:
            kept, _replayed = schedules.create_schedule(context, caller, body | {"enabled": form.enabled})
            said = _("%(name)s was made.", name=kept.name)
        else:
            version = int(form.values["version"]) if form.values["version"].isdecimal() else 0
            kept = schedules.change_schedule(context, caller, schedule.id, body, version=version)
            said = _("%(name)s was changed. Runs that were made keep what they were made of.", name=kept.name)
    except (BadRequest, NotFound, Conflict) as error:
        form.blame(error)
        return _render(form, schedule)
    return finish(said, url_for("admin.show_schedule", named=ids.show_id(ids.SCHEDULE, kept.id)))


def _read_body(form: Form) -> dict[str, Any]:
    """What the fields declare. Raises BadRequest with the field."""
    values = form.values
    timing: dict[str, Any] = {name: values[name].strip() for name in TIMING if values[name].strip()}
    if timing.get("jitter_seconds", "").isdecimal():
        timing["jitter_seconds"] = int(timing["jitter_seconds"])
    body: dict[str, Any] = {"name": values["name"].strip() or None, "timing": timing}
    for part in PARTS:
        if len(values[part]) > MOST_CHARS:
            raise BadRequest(_("This is longer than %(most)s characters.", most=MOST_CHARS), param=part)
        try:
            node, body[part] = read_text(values[part].replace("\r\n", "\n"))
        except Unreadable as error:
            form.line = error.line
            raise BadRequest(_("This cannot be read: %(why)s.", why=error.sentence), param=part) from None
        if node is not None:
            form.nodes[part] = node
    return body


def _preview(body: dict[str, Any]) -> dict[str, Any]:
    """What it would do now, and when it would fire."""
    wanted = parse_schedule(body)
    given = {name: value for name, value in body.items() if value is not None}
    found = previewing.preview_run(get_context(), get_caller(), given, more=OWN_FIELDS, timezone=wanted.timing.timezone)
    return {**found, "ahead": list_next(wanted.timing, utc_now(), NEXT)}


def _render(form: Form, schedule: Schedule | None = None, *, preview: dict[str, Any] | None = None) -> Response:
    page = render_template(
        "schedule_form.html",
        form=form,
        schedule=schedule,
        preview=preview,
        choices=CHOICES,
        zones=sorted(available_timezones()),
        back=url_for("admin.show_schedule", named=ids.show_id(ids.SCHEDULE, schedule.id))
        if schedule
        else url_for("admin.show_schedules"),
    )
    return make_response(page, form.error.status if form.error else 200)


def _make_example() -> dict[str, str]:
    known = models.list_models(get_context(), get_caller())
    pipeline = {"model": known[0].name if known else "docreader", "prompt": "Extract.", "fallback": "text_layer"}
    return {
        "name": "", "cron": "30 2 * * 1-5", "timezone": find_zone_name(), "window": "5h", "jitter_seconds": "",
        "misfire": Misfire.RUN_ONCE, "overlap": Overlap.SKIP, "at_deadline": AtDeadline.EXPIRE,
        "source": write_text({"uri": "/srv/scans", "include": ["**/*.pdf"]}), "pipeline": write_text(pipeline),
        "sinks": "", "sample": "", "metadata": "", "version": "",
    }  # fmt: skip


def _show_declared(schedule: Schedule) -> dict[str, str]:
    timing = schedule.declared.get("timing") or {}
    defaults = {"misfire": Misfire.RUN_ONCE, "overlap": Overlap.SKIP, "at_deadline": AtDeadline.EXPIRE}
    shown = {name: str(timing.get(name, defaults.get(name, ""))) for name in TIMING}
    parts = {part: write_text(schedule.declared.get(part)) for part in PARTS}
    return {"name": schedule.name, "version": str(schedule.version), **shown, **parts}
