"""When a schedule fires: a cron line in a time zone, what is done with missed instants, how long a run may work.

An instant is the moment that the cron line names, in UTC; it is what a run is known by. Across a change of clocks
cronsim follows Debian's cron: a fixed time that is skipped fires once right after the gap, one that comes twice
fires once, and an hourly line fires each hour that passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from batchinfer.domain.batches import parse_window
from batchinfer.domain.fields import join, read_int, read_object, read_text, read_word, refuse, refuse_unknown, require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

#: At most so many missed instants are made up for: longer outages are no reason to run a month of nights at once.
MAX_RUN_ALL = 3
#: Most instants that are looked at after an outage; older ones are missed whatever the policy.
MAX_MISSED = 1000
_MAX_JITTER_S = 6 * 3600
_FIELDS = ("cron", "timezone", "jitter_seconds", "window", "misfire", "overlap", "at_deadline")


class Misfire(StrEnum):
    """What is done about instants that passed while nobody ticked."""

    SKIP = "skip"
    RUN_ONCE = "run_once"
    RUN_ALL = "run_all"


class Overlap(StrEnum):
    """What is done when an instant comes while the run before it still works."""

    SKIP = "skip"
    QUEUE = "queue"
    CANCEL_PREVIOUS = "cancel_previous"


class AtDeadline(StrEnum):
    """What is done with pages that are unfinished when the window closes."""

    EXPIRE = "expire"
    CONTINUE = "continue"


@dataclass(frozen=True)
class Timing:
    """When a schedule fires. `window` is None where a run may take as long as it needs."""

    cron: str
    timezone: str
    jitter_s: int = 0
    window: timedelta | None = None
    misfire: Misfire = Misfire.RUN_ONCE
    overlap: Overlap = Overlap.SKIP
    at_deadline: AtDeadline = AtDeadline.EXPIRE


@dataclass(frozen=True)
class ClockChange:
    """A day on which a zone's clocks change and a schedule fires: when they do, by how much (forward is positive), and
    the instants of that day. All in UTC."""

    at: datetime
    shift: timedelta
    instants: tuple[datetime, ...]


@dataclass(frozen=True)
class Due:
    """The instants between two ticks: which are to be run, oldest first, and which are noted as missed."""

    run: tuple[datetime, ...]
    missed: tuple[datetime, ...]


def parse_timing(body: object, at: str = "timing") -> Timing:
    """The timing of a schedule from decoded JSON. Raises BadRequest, naming the field.

    A cron line that can never fire and a zone that this machine does not know are refused here, not found out at night.
    """
    given = read_object(body, at)
    refuse_unknown(given, _FIELDS, at)
    cron = " ".join(read_text(require(given, "cron", "Say 30 2 * * 1-5.", at), join(at, "cron"), max_chars=200).split())
    zone = read_text(require(given, "timezone", "Say Europe/Berlin.", at), join(at, "timezone"), max_chars=64)
    if zone not in available_timezones():
        refuse(join(at, "timezone"), "is not a time zone that is known here. Say one such as Europe/Berlin, or UTC.")
    window = given.get("window")
    timing = Timing(
        cron=cron,
        timezone=zone,
        jitter_s=read_int(given.get("jitter_seconds", 0), join(at, "jitter_seconds"), 0, _MAX_JITTER_S),
        window=None if window is None else parse_window(window, join(at, "window")),
        misfire=Misfire(read_word(given.get("misfire", "run_once"), join(at, "misfire"), Misfire)),
        overlap=Overlap(read_word(given.get("overlap", "skip"), join(at, "overlap"), Overlap)),
        at_deadline=AtDeadline(read_word(given.get("at_deadline", "expire"), join(at, "at_deadline"), AtDeadline)),
    )
    _check_cron(timing, join(at, "cron"))
    return timing


def _check_cron(timing: Timing, at: str) -> None:
    if len(timing.cron.split()) != 5:
        refuse(at, "must have five fields: minute, hour, day of month, month, day of week. Say 30 2 * * 1-5.")
    try:
        next(_walk(timing, datetime.now(UTC)))
    except CronSimError as error:
        part = str(error).removeprefix("Bad ")
        refuse(at, f"does not work: its {part} is none, or none that ever comes. Say 30 2 * * 1-5.")
    except StopIteration:
        refuse(at, "never fires. Name a day that comes, such as 30 2 * * 1-5.")


def _walk(timing: Timing, after: datetime) -> Iterator[datetime]:
    return (found.astimezone(UTC) for found in CronSim(timing.cron, after.astimezone(ZoneInfo(timing.timezone))))


def find_next(timing: Timing, after: datetime) -> datetime:
    """The first instant after an aware time, in UTC."""
    return next(_walk(timing, after))


def list_next(timing: Timing, after: datetime, count: int) -> list[datetime]:
    """The next `count` instants after an aware time, in UTC."""
    walk = _walk(timing, after)
    return [next(walk) for _ in range(count)]


def find_clock_change(timing: Timing, after: datetime, *, within_days: int = 200) -> ClockChange | None:
    """What the next change of clocks after an aware time does to a schedule; None where none comes within these days,
    or the schedule does not fire on that day."""
    zone = ZoneInfo(timing.timezone)
    at = _find_change(zone, after, within_days)
    if at is None:
        return None
    shift = _offset(zone, at) - _offset(zone, at - timedelta(seconds=1))
    day = at.astimezone(zone).date()
    instants: list[datetime] = []
    for instant in _walk(timing, at - timedelta(days=1)):
        fires_on = instant.astimezone(zone).date()
        if fires_on > day:
            break
        if fires_on == day:
            instants.append(instant)
    return ClockChange(at, shift, tuple(instants)) if instants else None


def _find_change(zone: ZoneInfo, after: datetime, within_days: int) -> datetime | None:
    """The first second, in UTC, at which the clocks of a zone are another distance from UTC than before it."""
    low = after.astimezone(UTC).replace(microsecond=0)
    for _ in range(within_days):
        high = low + timedelta(days=1)
        if _offset(zone, high) != _offset(zone, low):
            break
        low = high
    else:
        return None
    before = _offset(zone, low)
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
    return high


def _offset(zone: ZoneInfo, at: datetime) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta(0)


def choose_due(timing: Timing, last: datetime, now: datetime, *, grace: timedelta) -> Due:
    """What to do about the instants after `last` up to `now`.

    An instant no older than `grace` is on time and always run. Older ones were missed: `skip` runs none of them,
    `run_once` the newest, unless one is on time, and `run_all` the newest `MAX_RUN_ALL`.
    """
    passed: list[datetime] = []
    for instant in _walk(timing, last):
        if instant > now:
            break
        passed = [*passed[-(MAX_MISSED - 1) :], instant]
    on_time = [instant for instant in passed if now - instant <= grace]
    late = passed[: len(passed) - len(on_time)]
    spare = {Misfire.SKIP: 0, Misfire.RUN_ONCE: 0 if on_time else 1, Misfire.RUN_ALL: MAX_RUN_ALL}[timing.misfire]
    made_up = late[max(0, len(late) - spare) :]
    return Due(run=(*made_up, *on_time), missed=tuple(late[: len(late) - len(made_up)]))


def delay_start(timing: Timing, schedule_id: UUID, instant: datetime) -> datetime:
    """When the run of an instant starts: up to `jitter_s` later, and the same for whoever works it out."""
    if not timing.jitter_s:
        return instant
    digest = sha256(f"{schedule_id.hex}{instant.isoformat()}".encode()).digest()
    return instant + timedelta(seconds=int.from_bytes(digest[:8]) % (timing.jitter_s + 1))


def explain(timing: Timing) -> str:
    """The cron line in words with its zone, such as `At 02:30 on Monday through Friday (Europe/Berlin)`."""
    said: str = CronSim(timing.cron, datetime.now(UTC)).explain()
    return f"{said} ({timing.timezone})"
