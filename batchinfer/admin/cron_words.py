"""A cron line in words, in the page's language.

English comes from cronsim, the library that fires it, so that the words cannot say anything else than what happens.
cron-descriptor has Chinese, with English names of days and months in it, which Babel's stand for. It reads a line that
bounds both the day of the month and the day of the week as "or"; Debian's cron, and so cronsim, as "and" where one of
them begins with a star: such a line is told in English.
"""

from __future__ import annotations

import calendar
from typing import TYPE_CHECKING

from babel.dates import get_day_names, get_month_names
from cron_descriptor import ExpressionDescriptor, Options

from batchinfer.admin.language import choose_language
from batchinfer.domain.timing import explain
from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from batchinfer.domain.schedules import Schedule
    from batchinfer.domain.timing import Timing

_CHINESE = "zh_CN"


def say_fires(schedule: Schedule) -> str | None:
    """When a schedule fires, with its zone; None where its timing works no more."""
    try:
        return say_timing(schedule.timing, choose_language())
    except BadRequest:
        return None


def say_timing(timing: Timing, language: str) -> str:
    """The words for a language of the pages."""
    if language != "zh" or _differs(timing.cron):
        return explain(timing)
    options = Options()
    options.locale_code, options.use_24hour_time_format = _CHINESE, True
    said = str(ExpressionDescriptor(timing.cron, options).get_description()).strip()
    days, months = get_day_names("wide", locale=_CHINESE), get_month_names("wide", locale=_CHINESE)
    names = {calendar.day_name[number]: days[number] for number in range(7)}
    names |= {calendar.month_name[number]: months[number] for number in range(1, 13)}
    for english, chinese in names.items():
        said = said.replace(english, chinese)
    return f"{said}（{timing.timezone}）"


def _differs(cron: str) -> bool:
    """Whether the two libraries read a line differently."""
    day, weekday = cron.split()[2], cron.split()[4]
    return "*" not in (day, weekday) and (day.startswith("*") or weekday.startswith("*"))
