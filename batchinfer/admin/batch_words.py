"""What the pages of batches say of one: where it comes from, its four colours, its pace and its deadline, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_babel import gettext as _
from flask_babel import lazy_gettext

from batchinfer.admin.language import in_zone
from batchinfer.admin.shown import duration, number
from batchinfer.domain.progress import PACE_MINUTES, Basis

if TYPE_CHECKING:
    from datetime import datetime

    from flask import Blueprint

    from batchinfer.domain.progress import Progress

KINDS = {
    "file": lazy_gettext("file of the API"),
    "lines": lazy_gettext("lines in a request"),
    "retry": lazy_gettext("retry of a batch"),
    "run": lazy_gettext("run over documents"),
    "schedule": lazy_gettext("schedule"),
}


def register(blueprint: Blueprint) -> None:
    """Offer the words to templates."""
    for function in (show_kind, list_parts, show_pace, show_left, show_deadline, show_basis):
        blueprint.add_app_template_global(function)
    blueprint.add_app_template_filter(minute_clock)


def minute_clock(at: datetime) -> str:
    """Hour and minute in the page's zone."""
    return f"{in_zone(at):%H:%M}"


def show_kind(kind: str) -> str:
    """Where a batch comes from."""
    return str(KINDS.get(kind, kind))


def list_parts(progress: Progress) -> list[tuple[str, str, int]]:
    """(class, word, count) of the four colours, as the macro `progress` takes them."""
    return [
        ("done", _("done"), progress.done),
        ("failed", _("failed"), progress.failed),
        ("retrying", _("retrying"), progress.retrying),
        ("rest", _("to do"), progress.rest),
    ]


def show_pace(progress: Progress) -> str:
    """Lines a second, or a minute where these are few; – where nothing is known."""
    if progress.pace is None or progress.pace.basis is not Basis.OWN:
        return "–"
    per_s = progress.pace.per_s
    if per_s >= 1:
        return str(_("%(number)s a second", number=number(per_s, 1)))
    return str(_("%(number)s a minute", number=number(per_s * 60, 1)))


def show_left(progress: Progress) -> str:
    """The time until the last line has ended; – where nothing can be said."""
    return "–" if progress.left_s is None else _("about %(time)s", time=duration(progress.left_s))


def show_deadline(progress: Progress) -> tuple[str, str]:
    """("ok", "late" or "", a sentence): whether the deadline will be met at this pace."""
    if progress.spare_s is None:
        return "", ""
    if progress.spare_s < 0:
        return "late", _("%(time)s too late at this pace", time=duration(-progress.spare_s))
    return "ok", _("in time, %(time)s to spare", time=duration(progress.spare_s))


def show_basis(progress: Progress) -> str:
    """On what pace and time left rest."""
    pace = progress.pace
    if pace is None:
        return ""
    if pace.basis is Basis.OWN:
        minutes = number(min(pace.seconds / 60, PACE_MINUTES), 0 if pace.seconds >= 60 * PACE_MINUTES else 1)
        said = _(
            "By its own %(lines)s lines that ended in the last %(minutes)s minutes.",
            lines=number(pace.lines),
            minutes=minutes,
        )
    else:
        said = _(
            "By %(lines)s jobs of its model in the last day, behind the %(waiting)s of yours that wait: few lines of "
            "its own have ended.",
            lines=number(pace.lines),
            waiting=number(pace.waiting),
        )
    return str(said)
