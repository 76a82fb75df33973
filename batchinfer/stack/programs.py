"""The command line and environment of each process of ours."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.settings import PREFIX
from batchinfer.stack.children import Program
from batchinfer.stack.devices import list_device_facts
from batchinfer.stack.orphans import MARK

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.services.replicas import Assignment
    from batchinfer.settings import Settings
    from batchinfer.stack.models import ModelFolder
    from batchinfer.store.hosts import Device


@dataclass(frozen=True)
class Fleet:
    """What one machine runs beside the servers."""

    model: ModelFolder
    engine: str
    #: Those that the model of this start is put on, one replica each.
    devices: list[str]
    cpu_workers: int

    def list_devices(self) -> list[Device]:
        """What the host of this machine offers to all models: the CPU, too, beside GPUs."""
        return list_device_facts(self.devices)


def child_environment(settings: Settings) -> dict[str, str]:
    """Our environment, every setting as it is in force, and the mark by which orphans are found."""
    environment = dict(os.environ)
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is not None:
            plain = value.get_secret_value() if hasattr(value, "get_secret_value") else value
            environment[PREFIX + name.upper()] = str(plain)
    environment[MARK] = str(settings.home.resolve())
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def list_programs(settings: Settings, fleet: Fleet, listener: int) -> list[Program]:
    """Web, CPU workers and beat, in the order of starting.

    `listener` is the descriptor of the bound socket that the web server takes over.
    """
    environment = child_environment(settings)
    web = [sys.executable, "-m", "gunicorn", "-c", "python:batchinfer.stack.gunicorn_settings"]
    web += ["--bind", f"fd://{listener}", "batchinfer.web:create_app()"]
    return [
        _program("web", "web", web, environment, settings.home, keep=(listener,)),
        *list_cpu_programs(settings, fleet.cpu_workers),
        _program("beat", "beat", _celery("workers.beat", "-q", "beat"), environment, settings.home),
    ]


def list_cpu_programs(settings: Settings, number: int) -> list[Program]:
    """So many CPU workers."""
    environment, host = child_environment(settings), settings.machine_name
    return [
        _program("cpu", name, _celery("workers.cpu", *_worker(f"{name}@{host}")), environment, settings.home)
        for name in (f"cpu{index}" for index in range(number))
    ]


def make_model_program(settings: Settings, orders: Assignment) -> Program:
    """The process of one replica, as its row and its deployment say."""
    options = {"--model": orders.model, "--device": orders.device, "--engine": orders.engine}
    options["--replica"] = str(orders.id)
    # On the CPU a plan that nobody asked for bounds nothing: memory that is short there is no end of the process.
    budget = orders.memory_mib or (orders.planned_mib if orders.device.startswith("cuda") else None)
    if budget:
        options["--memory-mib"] = str(budget)
    if orders.slots is not None:
        options["--slots"] = str(orders.slots)
    engine_options = dict(orders.options)
    if orders.dtype != "auto":
        engine_options["dtype"] = orders.dtype
    if orders.quantisation != "none":
        engine_options["quantisation"] = orders.quantisation
    if engine_options:
        options["--engine-options"] = json.dumps(engine_options)
    words = [word for pair in options.items() for word in pair]
    argv = _celery("workers.model", *_worker(orders.worker), *words)
    name = orders.worker.partition("@")[0]
    return _program("model", name, argv, child_environment(settings), settings.home)


def _program(
    role: str,
    name: str,
    argv: list[str],
    environment: dict[str, str],
    home: Path,
    *,
    keep: tuple[int, ...] = (),
) -> Program:
    return Program(
        role=role, name=name, argv=argv, env=environment, stop_signals=(signal.SIGTERM,), cwd=home, keep=keep
    )


def _celery(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", module, *arguments]


def _worker(name: str) -> list[str]:
    return ["worker", "-n", name, "-P", "threads", "-c", "1", "--without-gossip", "--without-mingle"]
