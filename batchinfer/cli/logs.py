"""`batchinfer logs`: the log files of this home, all processes together, for people or as JSON."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from batchinfer.cli.local import HOME, load
from batchinfer.cli.output import out, show_text
from batchinfer.errors import StartError
from batchinfer.observe.clock import utc_now
from batchinfer.observe.reading import LEVELS, Follower, Wanted, read_records

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from batchinfer.observe.reading import Record

ROLES = ("web", "cpu", "model", "beat", "postgres", "redis")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DIGITS = re.compile(r"(?:[a-z]+[_-])?[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
_COLOURS = {"debug": "dim", "warning": "yellow", "error": "red", "critical": "bold red"}
#: Shown first or not at all: the columns say them.
_COLUMNS = frozenset({"timestamp", "level", "role", "event", "logger", "exception"})


def _read_span(_: click.Context, __: click.Parameter, text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise click.BadParameter("write a number and s, m, h or d: 10m, 2h.")
    return timedelta(seconds=int(found.group(1)) * _UNITS[found.group(2)])


def _read_id(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None and not _DIGITS.fullmatch(text.lower()):
        raise click.BadParameter("an id has 32 hexadecimal digits: job_0192…, or those of a trace.")
    return text.lower() if text else None


@click.command("logs")
@HOME
@click.option("--job", callback=_read_id, help="Lines about this job, from every process.")
@click.option("--trace", callback=_read_id, help="Lines of this trace.")
@click.option("--process", type=click.Choice(ROLES), help="Of these alone.")
@click.option("--since", callback=_read_span, help="Not older than this: 30s, 10m, 2h, 1d.")
@click.option("--level", type=click.Choice(LEVELS[:4], case_sensitive=False), help="This level and those above it.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print each line as it stands in its file, and nothing else.")
def logs(
    home: Path | None,
    job: str | None,
    trace: str | None,
    process: str | None,
    since: timedelta | None,
    level: str | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Read the logs of `batchinfer up` or `batchinfer host` in this home."""
    folder = load(home).logs_dir
    if not folder.is_dir():
        raise StartError("This home has no logs. Start `batchinfer up` with it, or name another with --home.")
    wanted = Wanted(job, trace, process, level.lower() if level else None, utc_now() - since if since else None)
    # Made before the files are read, so that nothing falls in between.
    follower = Follower(folder, wanted) if follow else None
    _print(read_records(folder, wanted), as_json=as_json)
    if follower is not None:
        _print(follower.follow(), as_json=as_json)


def _print(records: Iterable[Record], *, as_json: bool) -> None:
    for record in records:
        if as_json:
            click.echo(record.text)
        else:
            _show(record)


def _show(record: Record) -> None:
    clock = record.at.astimezone().strftime("%H:%M:%S.%f")[:-3] if record.at else " " * 12
    pairs = [f"{name}={value}" for name, value in record.fields.items() if name not in _COLUMNS and value is not None]
    line = f"{clock} {record.level.upper():<7} {record.process:<8} {show_text(record.event)}"
    colour = _COLOURS.get(record.level)
    text = escape(f"{line}  {show_text(' '.join(pairs))}".rstrip())
    out.print(f"[{colour}]{text}[/{colour}]" if colour else text)
    if trouble := record.fields.get("exception"):
        out.print(escape(show_text(str(trouble))), style="dim")
