"""The command line and environment of each process of ours."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.settings import PREFIX
from batchinfer.stack.children import Program
from batchinfer.stack.orphans import MARK

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.settings import Settings
    from batchinfer.stack.models import ModelFolder


@dataclass(frozen=True)
class Fleet:
    """What one machine runs beside the servers."""

    model: ModelFolder
    engine: str
    devices: list[str]
    cpu_workers: int


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
    """Web, beat, CPU workers and one model worker a device, in the order of starting: the slowest first.

    `listener` is the descriptor of the bound socket that the web server takes over.
    """
    environment = child_environment(settings)
    models = [
        _program(
            "model",
            f"model{index}",
            _model_worker(fleet, f"model{index}", device),
            environment,
            settings.home,
        )
        for index, device in enumerate(fleet.devices)
    ]
    web = [sys.executable, "-m", "gunicorn", "-c", "python:batchinfer.stack.gunicorn_settings"]
    web += ["--bind", f"fd://{listener}", "batchinfer.web:create_app()"]
    cpus = [
        _program("cpu", f"cpu{index}", _celery("workers.cpu", *_worker(f"cpu{index}")), environment, settings.home)
        for index in range(fleet.cpu_workers)
    ]
    return [
        *models,
        _program("web", "web", web, environment, settings.home, keep=(listener,)),
        *cpus,
        _program("beat", "beat", _celery("workers.beat", "-q", "beat"), environment, settings.home),
    ]


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
    return ["worker", "-n", f"{name}@%h", "-P", "threads", "-c", "1", "--without-gossip", "--without-mingle"]


def _model_worker(fleet: Fleet, name: str, device: str) -> list[str]:
    options = ["--model", fleet.model.name, "--device", device, "--engine", fleet.engine]
    return _celery("workers.model", *_worker(name), *options)
