"""`batchinfer models`: make a model known, and test one."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast

import click

from batchinfer.cli.local import HOME, context, load, operator
from batchinfer.cli.output import say
from batchinfer.errors import Unavailable


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


@models.command("verify")
@HOME
@click.argument("model", metavar="NAME|DIR")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as one JSON object and nothing else.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto")
@click.option("--try", "attempt", default="", metavar="FEATURE,...", help="Test what is off by default as well.")
def verify_model(home: Path | None, model: str, as_json: bool, device: str, dtype: str, attempt: str) -> None:
    """Load a model and tell which optimisations answer as `generate` does; ends with 1 where no engine serves it."""
    folder = _find_folder(home, model)
    command = [sys.executable, "-m", "workers.engine.verify", str(folder), "--device", device, "--dtype", dtype]
    command += ["--try", attempt]
    os.execv(sys.executable, [*command, *(["--json"] if as_json else [])])  # noqa: S606 - no shell is wanted


def _find_folder(home: Path | None, model: str) -> Path:
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
