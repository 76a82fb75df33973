"""`batchinfer schedules`: runs over documents by the clock, over HTTP. A schedule is named by its id or its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchinfer.cli.declarations import read_declarations
from batchinfer.cli.output import JSON, emit, remark, say
from batchinfer.cli.remote import remote, show_time
from batchinfer.cli.runs import YAML, show_run
from batchinfer.client.progress import make_plain

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.client import Client, Schedule

_NAME = click.argument("name", metavar="SCHEDULE")


@click.group()
def schedules() -> None:
    """Schedules: a run over documents for each instant of a cron line."""


@schedules.command("apply")
@YAML
@JSON
@remote
def apply_schedules(client: Client, path: Path, as_json: bool) -> None:
    """Make the schedules of a YAML file what it declares, and create those that are not there. Twice is as once."""
    for declaration in read_declarations(path):
        with declaration.naming_lines():
            schedule = client.schedules.apply(declaration.value)
        if as_json:
            emit(schedule.as_dict())
            continue
        say(f"{schedule.id}  {schedule.applied}  version {schedule.version}  {make_plain(schedule.name)}")
        _tell_next(schedule)


@schedules.command("list")
@JSON
@remote
def list_schedules(client: Client, as_json: bool) -> None:
    """All schedules."""
    for schedule in client.schedules.list():
        _show(schedule, as_json=as_json)


@schedules.command("show")
@_NAME
@click.option("--runs", type=click.IntRange(min=0), default=5, show_default=True, help="How many of its runs.")
@JSON
@remote
def show_schedule(client: Client, name: str, runs: int, as_json: bool) -> None:
    """One schedule as it stands, and its newest runs."""
    schedule = client.schedules.find(name)
    _show(schedule, as_json=as_json)
    if as_json:
        return
    _tell_next(schedule)
    if schedule.error is not None:
        remark(f"{schedule.error.code}: {make_plain(schedule.error.message)}")
    for run in client.schedules.list_runs(schedule.id, limit=runs):
        show_run(run, as_json=False)


@schedules.command("next")
@_NAME
@click.option("-n", "--number", type=click.IntRange(1, 100), default=5, show_default=True)
@JSON
@remote
def list_next(client: Client, name: str, number: int, as_json: bool) -> None:
    """When it fires next, by the clocks of its zone."""
    for instant in client.schedules.list_next(client.schedules.find(name).id, number):
        if as_json:
            emit(instant.as_dict())
        else:
            say(f"{instant.local}  {show_time(instant.at)}")


@schedules.command("pause")
@_NAME
@JSON
@remote
def pause_schedule(client: Client, name: str, as_json: bool) -> None:
    """Let its instants pass; runs that have begun go on."""
    _show(client.schedules.pause(client.schedules.find(name).id), as_json=as_json)


@schedules.command("resume")
@_NAME
@JSON
@remote
def resume_schedule(client: Client, name: str, as_json: bool) -> None:
    """Fire again, from the next instant on."""
    _show(client.schedules.resume(client.schedules.find(name).id), as_json=as_json)


@schedules.command("run")
@_NAME
@JSON
@remote
def run_schedule(client: Client, name: str, as_json: bool) -> None:
    """Begin a run of it now; `batchinfer runs watch` watches it."""
    show_run(client.schedules.run(client.schedules.find(name).id), as_json=as_json)


@schedules.command("delete")
@_NAME
@JSON
@remote
def delete_schedule(client: Client, name: str, as_json: bool) -> None:
    """Fire it no more; its runs stay."""
    schedule = client.schedules.find(name)
    client.schedules.delete(schedule.id)
    if as_json:
        emit({"id": schedule.id, "deleted": True})
    else:
        say(f"{schedule.id}  deleted")


def _show(schedule: Schedule, *, as_json: bool) -> None:
    if as_json:
        emit(schedule.as_dict())
        return
    fires = schedule.fires or "its timing works no more"
    say(f"{schedule.id}  {schedule.status:<7}  {make_plain(schedule.name)}  {make_plain(fires)}")


def _tell_next(schedule: Schedule) -> None:
    if schedule.next_at is not None:
        say(f"next: {show_time(schedule.next_at)}  ({make_plain(schedule.fires or '')})")
