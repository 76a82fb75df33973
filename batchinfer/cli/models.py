"""`batchinfer models`: make a model known, fetch it, and test one."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from batchinfer.cli.bars import show_launch
from batchinfer.cli.local import HOME, context, load, operator
from batchinfer.cli.output import FAILED, JSON, emit, say
from batchinfer.cli.registry import (
    fetch_model,
    list_revisions,
    prune_models,
    register_model,
    verify_known,
    verify_remotely,
)
from batchinfer.cli.remote import URL_OPTION, open_client, remote
from batchinfer.domain.launches import DTYPES, QUANTISATIONS
from batchinfer.errors import Unavailable

if TYPE_CHECKING:
    from batchinfer.client.client import Client


@click.group()
def models() -> None:
    """Models."""


@models.command("add")
@HOME
@click.argument("model", required=False, metavar="[NAME|DIR]")
def add_model(home: Path | None, model: str | None) -> None:
    """Make a model folder known, so that jobs may name it and workers load it; the bundled one if left out."""
    from batchinfer.services import models as service
    from batchinfer.stack.models import find_model

    folder = find_model(model, load(home).home, fake=False)
    with context(home) as ctx:
        service.add_model(ctx, operator(), folder.name, str(folder.path), folder.revision, folder.facts)
    say(f"{folder.name} is known, revision {folder.revision}.")


@models.command("plan")
@click.argument("model", metavar="NAME")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--slots", type=click.IntRange(1), help="Requests that run at once.")
@click.option("--dtype", type=click.Choice(DTYPES), default="auto", show_default=True)
@click.option("--quantisation", type=click.Choice(QUANTISATIONS), default="none", show_default=True)
@click.option("--memory-mib", type=click.IntRange(1), help="A budget: the roomiest plan of at most so many MiB.")
@click.option("--context-tokens", type=click.IntRange(1), help="The most that a request may have.")
@JSON
@remote
def plan_model(client: Client, /, model: str, as_json: bool, **asked: Any) -> None:
    """What a launch would take and where it fits, before it is made; ends with 1 where it fits nowhere."""
    found = client.models.plan(model, **asked)
    if as_json:
        emit(found.model_dump(mode="json"))
    else:
        show_launch(found)
    if found.fits is False:
        sys.exit(FAILED)


@models.command("verify")
@HOME
@click.argument("model", metavar="NAME|DIR")
@click.option("--revision", help="Of a model that the service knows; the newest that is here if left out.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as one JSON object and nothing else.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto")
@click.option("--quantisation", type=click.Choice(["none", "int8", "int4", "fp8"]), default="none")
@click.option("--try", "attempt", default="", metavar="FEATURE,...", help="Test what is off by default as well.")
@click.option("--remote", "remotely", is_flag=True, help="A CPU worker of the service reads the files; no self-test.")
@URL_OPTION
def verify_model(
    home: Path | None,
    url: str | None,
    remotely: bool,
    model: str,
    revision: str | None,
    as_json: bool,
    device: str,
    dtype: str,
    quantisation: str,
    attempt: str,
) -> None:
    """Read a model's files again, then load it and tell which optimisations answer as `generate` does.

    Ends with 1 where the files have changed or no engine serves it. A revision that the service knows is verified
    from then on. With --remote a CPU worker of the service reads the files, and that is all.
    """
    if remotely or url is not None:
        with open_client(url, home) as client:
            sys.exit(verify_remotely(client, model, revision, as_json=as_json))
    options = ["--device", device, "--dtype", dtype, "--quantisation", quantisation, "--try", attempt]
    options += ["--json"] if as_json else []
    program = [sys.executable, "-m", "workers.engine.verify"]
    if not model.startswith(("/", ".", "~")):
        status = verify_known(home, model, revision, program, options, quiet=as_json)
        if status is not None:
            sys.exit(status)
    folder = find_folder(home, model)
    os.execv(sys.executable, [*program, str(folder), *options])  # noqa: S606 - no shell is wanted


def find_folder(home: Path | None, model: str) -> Path:
    """A model's folder: on disk as `up` finds it, or where the running service knows it. Raises StartError."""
    from batchinfer.errors import StartError
    from batchinfer.services.models import find_model as find_known
    from batchinfer.stack.models import find_model

    try:
        folder = find_model(model, load(home).home, fake=False).path
    except StartError:
        with suppress(StartError, Unavailable), context(home) as ctx:
            known = find_known(ctx, model)
            if known is not None and (Path(known.path) / "config.json").is_file():
                return Path(known.path)
        raise
    return cast("Path", folder)


for _command in (register_model, fetch_model, list_revisions, prune_models):
    models.add_command(_command)
