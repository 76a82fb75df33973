"""`batchinfer up`, step by step."""

from __future__ import annotations

import errno
import importlib
import os
import socket
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from batchinfer.errors import StartError
from batchinfer.stack.devices import count_cpu_workers, list_devices
from batchinfer.stack.home import Home
from batchinfer.stack.models import find_model
from batchinfer.stack.orphans import end_orphans
from batchinfer.stack.programs import Fleet
from batchinfer.stack.ready_file import ReadyFile
from batchinfer.stack.running import RUNNING_FILE, describe_servers, show_url
from batchinfer.stack.servers import Servers
from batchinfer.stack.signals import Signals, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchinfer.settings import Settings


@dataclass(frozen=True)
class Wishes:
    """What the command line asked for."""

    engine: str = "auto"
    model: str | None = None
    cpu_workers: str = "auto"
    reload: bool = False
    ready_file: Path | None = None


def run_up(settings: Settings, wishes: Wishes, say: Callable[[str], None]) -> None:
    """Start everything, keep it running until SIGTERM, Ctrl-C or SIGHUP, end everything.

    Raises StartError with the remedy where the start is not possible; nothing is left running then either.
    """
    with Signals() as signals, ExitStack() as ending, suppress(Stopped):
        servers, home = Servers(settings), Home(settings.home)
        home.open()
        ending.callback(home.close)
        ready_file = ReadyFile(wishes.ready_file)
        ready_file.remove()
        orphans = end_orphans(settings.home)
        if orphans:
            say(f"Ended {orphans} processes that an earlier run left behind.")
        folder = find_model(wishes.model, settings.home, fake=wishes.engine == "fake")
        listener = bind(settings.host, settings.port)
        ending.callback(listener.close)

        _import_meanwhile("batchinfer.stack.machine")
        ending.callback(servers.stop)
        servers.start()
        for line in servers.notes():
            say(line)
        settings = _with_secret_key(servers.settings_in_force(), home)
        ending.callback(home.forget, RUNNING_FILE)
        home.keep_secret(RUNNING_FILE, describe_servers(settings, show_url(*listener.getsockname()[:2])))

        from batchinfer.stack.machine import open_machine

        devices = list_devices()
        fleet = Fleet(folder, wishes.engine, devices, count_cpu_workers(wishes.cpu_workers, devices))
        machine = open_machine(settings, home, fleet, ready_file, say)
        ending.callback(machine.close)
        machine.start(servers, listener, signals)
        machine.wait_healthy()
        machine.run(reload=wishes.reload)


def bind(host: str, port: int) -> socket.socket:
    """The listening socket of the web server. It stays ours: a web process that is replaced refuses nobody.

    Raises StartError where the port is taken or the address is not one of this machine.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"Port {port} is taken. Choose another with --port, or 0 for a free one.") from None
        unknown = isinstance(error, socket.gaierror)
        reason = "no such address" if unknown else os.strerror(error.errno or 0)
        raise StartError(f"Cannot listen on {host}:{port}: {reason}. Set BATCHINFER_HOST.") from None
    return listener


def _import_meanwhile(module: str) -> None:
    """Import what comes next while the servers start. What fails here fails again when it is needed."""

    def load() -> None:
        with suppress(Exception):
            importlib.import_module(module)

    threading.Thread(target=load, daemon=True).start()


def _with_secret_key(settings: Settings, home: Home) -> Settings:
    if settings.secret_key is not None:
        return settings
    return settings.model_copy(update={"secret_key": SecretStr(home.make_secret("secret-key"))})
