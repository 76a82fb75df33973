"""The installation: run it, bring its schema up to date, show its settings, see it work."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from batchinfer.cli.local import HOME, load
from batchinfer.cli.output import out, say
from batchinfer.settings import list_settings, load_settings


@click.command()
@HOME
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the web server; 0 takes a free one.")
@click.option("--engine", type=click.Choice(["auto", "transformers", "fake"]), default="auto", show_default=True)
@click.option("--model", metavar="NAME|DIR", help="A model folder, or its name under home/models.")
@click.option("--cpu-workers", metavar="N|auto", default="auto", show_default=True, help="Processes that open files.")
@click.option("--reload", is_flag=True, help="Start web and workers anew when the code changes.")
@click.option("--ready-file", type=click.Path(path_type=Path), help="JSON with url, api_key and pids, once all work.")
def up(home: Path | None, port: int | None, cpu_workers: str, ready_file: Path | None, **wishes: Any) -> None:
    """Run the whole service on this machine, until Ctrl-C."""
    from batchinfer.stack.up import Wishes, run_up

    _check_cpu_workers(cpu_workers, least=1)
    settings = load(home, **({} if port is None else {"port": port}))
    place = ready_file.expanduser().absolute() if ready_file else None
    run_up(settings, Wishes(cpu_workers=cpu_workers, ready_file=place, **wishes), say)


@click.command()
@HOME
@click.option("--name", metavar="NAME", help="Name of this machine among the hosts; its own if left out.")
@click.option("--label", "labels", metavar="NAME=VALUE", multiple=True, help="By which deployments choose it.")
@click.option("--cpu-workers", metavar="N|auto", default="auto", show_default=True, help="Processes that open files.")
@click.option("--ready-file", type=click.Path(path_type=Path), help="JSON with the pids, once the workers work.")
def host(home: Path | None, name: str | None, labels: tuple[str, ...], cpu_workers: str, **files: Path | None) -> None:
    """Lend this machine to a service elsewhere: hold the models that are assigned to it, until Ctrl-C."""
    from batchinfer.stack.host import HostWishes, run_host

    _check_cpu_workers(cpu_workers, least=0)
    named = {} if name is None else {"host_name": name}
    labelled = {"host_labels": ",".join(labels)} if labels else {}
    ready_file = files["ready_file"]
    place = ready_file.expanduser().absolute() if ready_file else None
    run_host(load(home, **named, **labelled), HostWishes(cpu_workers, place), say)


def _check_cpu_workers(text: str, *, least: int) -> None:
    if text != "auto" and not (text.isdecimal() and least <= int(text) <= 256):
        raise click.BadParameter(f"a number from {least} to 256, or auto", param_hint="--cpu-workers")


@click.command()
@HOME
def migrate(home: Path | None) -> None:
    """Bring the database to this release's schema."""
    from batchinfer.stack.running import find_servers
    from batchinfer.store.migrate import upgrade

    upgrade(find_servers(load(home)).require_database_url())
    say("The database has this release's schema.")


@click.command()
def demo() -> None:
    """The main job, told while it runs: documents in, a worker killed half way, nothing lost."""
    os.execv(sys.executable, [sys.executable, "-m", "batchinfer.demo"])  # noqa: S606 - no shell is wanted


@click.command()
def settings() -> None:
    """Every setting: what is in force, the default, and where it comes from."""
    rows = [("variable", "in force", "default", "from")]
    rows += [(row.variable, row.value, row.default, row.source) for row in list_settings(load_settings())]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        out.print(escape("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()))
