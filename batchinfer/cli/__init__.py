"""The command line: one verb a command, a module a noun. What goes wrong is one line with the remedy, no traceback."""

from __future__ import annotations

import os
import sys

import click
from rich.markup import escape

from batchinfer import __version__
from batchinfer.cli.acts import acts
from batchinfer.cli.backups import make_backup, restore_backup
from batchinfer.cli.batches import batches
from batchinfer.cli.deployments import workers
from batchinfer.cli.doctor import doctor
from batchinfer.cli.files import files
from batchinfer.cli.installation import demo, host, migrate, settings, up
from batchinfer.cli.jobs import jobs
from batchinfer.cli.keys import audit, keys
from batchinfer.cli.logs import logs
from batchinfer.cli.models import models
from batchinfer.cli.output import DONE, FAILED, INTERRUPTED, MISUSED, err
from batchinfer.cli.plan import plan
from batchinfer.cli.queue import queue
from batchinfer.cli.reviews import goldens
from batchinfer.cli.runs import runs
from batchinfer.cli.schedules import schedules
from batchinfer.cli.submit import submit
from batchinfer.cli.templates import templates
from batchinfer.cli.tenants import tenants
from batchinfer.cli.trials import compare_models, warm_model
from batchinfer.cli.usage import usage
from batchinfer.errors import BatchinferError, SettingsError


@click.group()
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Asynchronous batch inference for vision-language models."""


for _command in (
    up, host, migrate, demo, settings, keys, audit, models, queue, submit, jobs, acts, batches, files, usage, plan,
    runs, schedules, templates, goldens, workers, doctor, logs, tenants, make_backup, restore_backup,
):  # fmt: skip
    cli.add_command(_command)
for _command in (compare_models, warm_model):
    models.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """The console script."""
    try:
        cli.main(arguments, prog_name="batchinfer", standalone_mode=False)
        sys.exit(DONE)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # `| head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as error:
        err.print(f"[red]{escape(f'{error.filename or error}: {error.strerror}')}[/red]")
        sys.exit(FAILED)
    except BatchinferError as error:
        err.print(f"[red]{escape(error.message)}[/red]")
        sys.exit(MISUSED if isinstance(error, SettingsError) else FAILED)
