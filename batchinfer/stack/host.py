"""`batchinfer host`: a keeper and CPU workers alone, on a machine beside the one that has the servers."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.errors import StartError, Unavailable
from batchinfer.services.context import open_context
from batchinfer.stack.devices import count_cpu_workers, list_device_facts, list_devices
from batchinfer.stack.health import find_unhealthy, read_signs
from batchinfer.stack.home import Home
from batchinfer.stack.orphans import end_orphans
from batchinfer.stack.processes import Processes
from batchinfer.stack.programs import list_cpu_programs
from batchinfer.stack.ready_file import ReadyFile
from batchinfer.stack.signals import Signals, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchinfer.services.context import Context
    from batchinfer.settings import Settings

#: How long the CPU workers may take to begin.
HEALTHY_S = 60.0


@dataclass(frozen=True)
class HostWishes:
    """What the command line asked for."""

    cpu_workers: str = "auto"
    ready_file: Path | None = None


def run_host(settings: Settings, wishes: HostWishes, say: Callable[[str], None]) -> None:
    """Hold what the database assigns to this machine, until SIGTERM, Ctrl-C or SIGHUP.

    Raises StartError, SettingsError; a database that goes away later is waited for, and the models go on.
    """
    settings.require_database_url()
    settings.require_redis_url()
    with Signals() as signals, ExitStack() as ending, suppress(Stopped):
        home = Home(settings.home)
        home.open()
        ending.callback(home.close)
        ready_file = ReadyFile(wishes.ready_file)
        ready_file.remove()
        ending.callback(ready_file.remove)
        orphans = end_orphans(settings.home)
        if orphans:
            say(f"Ended {orphans} processes that an earlier run left behind.")
        ctx = open_context(settings, name="batchinfer-host", pool_size=3)
        ending.callback(ctx.close)
        devices = list_devices()
        processes = Processes(ctx, list_device_facts(devices), ready_file.update, say)
        try:
            processes.keeper.open()
        except Unavailable:
            raise StartError(
                "The database does not answer or refuses us. Look at BATCHINFER_DATABASE_URL; `batchinfer up` or "
                "`batchinfer migrate` must have made its schema."
            ) from None
        ending.callback(_close, processes, signals, say)
        for program in list_cpu_programs(settings, count_cpu_workers(wishes.cpu_workers, devices)):
            processes.add(program)
        _wait_healthy(ctx, processes, signals)
        ready_file.write("", "", processes.supervisor.pids())
        say(f"The host {settings.machine_name} holds what is assigned to it.")
        while True:
            processes.step(signals, 0.5)


def _wait_healthy(ctx: Context, processes: Processes, signals: Signals) -> None:
    """Until the CPU workers hold leases. Raises StartError, Stopped."""
    started_at_s = time.monotonic()
    while True:
        processes.step(signals, 0.1)
        with suppress(Unavailable):
            if not find_unhealthy(processes.supervisor.places, read_signs(ctx), ""):
                return
        if time.monotonic() - started_at_s > HEALTHY_S:
            raise StartError(
                f"The CPU workers are not healthy after {HEALTHY_S:.0f} s. Their logs in the home say why."
            )


def _close(processes: Processes, signals: Signals, say: Callable[[str], None]) -> None:
    say("Stopping.")
    processes.close(hurry=lambda: signals.stops > 1)
