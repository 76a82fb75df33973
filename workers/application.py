"""The Celery application of a worker process: settings, logging, and options beside Celery's own."""

from __future__ import annotations

import logging
import sys
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

from celery import Celery, signals
from celery.bin.base import CeleryOption
from celery.exceptions import SecurityWarning

from batchinfer.bus.app import make_celery
from batchinfer.errors import SettingsError
from batchinfer.observe.logs import configure_logging
from batchinfer.settings import PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import click

#: Two lines for each announcement; what became of the work is logged by those who do it.
_LOUD = ("celery.worker.strategy", "celery.app.trace")


def make_application(role: str, options: Sequence[click.Option] = ()) -> Celery:
    """The application of `celery -A workers.<role>`. A bad setting ends the process with one line that says
    why."""
    try:
        settings = load_settings()
        app = make_celery(settings, f"batchinfer.{role}")
    except SettingsError as error:
        sys.exit(error.message)
    app.conf.update(
        # The pool only runs tasks that set an event; prefork would copy a loaded model.
        worker_pool="threads",
        worker_concurrency=1,
        worker_redirect_stdouts=False,
        worker_soft_shutdown_timeout=0,
        worker_consumer="workers.consumer:RefusingConsumer",
        beat_scheduler="workers.beat:TickScheduler",
    )
    app.user_options["worker"].update(options)
    _own_logging(settings, role)
    signals.celeryd_init.connect(_be_quiet, weak=False)
    # Celery warns every root of pickled messages; only JSON is accepted here.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    return app


def offer_app(make: Callable[[], Celery]) -> Callable[[str], Celery]:
    """A module's `__getattr__` that makes `app` once, when it is asked for: importing the module needs no settings."""
    made = cache(make)

    def find(name: str) -> Celery:
        if name == "app":
            return made()
        raise AttributeError(name)

    return find


def option(name: str, **details: Any) -> click.Option:
    """An option of the worker command; BATCHINFER_WORKER_<NAME> sets it too."""
    variable = f"{PREFIX}WORKER_{name.strip('-').upper().replace('-', '_')}"
    made: click.Option = CeleryOption(
        [name], envvar=variable, show_envvar=True, help_group="Batchinfer Options", **details
    )
    return made


def _be_quiet(instance: Any = None, **_: Any) -> None:
    """No banner between the lines of a log that programs read."""
    instance.quiet = True


def _own_logging(settings: Settings, role: str) -> None:
    def configure(**_: Any) -> None:
        configure_logging(settings, role)
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.WARNING)

    # Connected, it keeps Celery from setting up its own.
    signals.setup_logging.connect(configure, weak=False)
