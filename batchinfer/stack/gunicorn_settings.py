"""What gunicorn reads at its start: one process of threads, no control socket, its lines as all others, nothing left
behind."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from batchinfer.errors import SettingsError
from batchinfer.observe.logs import configure_logging
from batchinfer.settings import load_settings
from batchinfer.stack.launch import ask_for_death_signal

try:
    _settings = load_settings()
except SettingsError as error:
    sys.exit(error.message)

#: How the line begins about a request that cannot be parsed.
_UNREADABLE = "Invalid request from ip="


class ServerLogger(Logger):  # type: ignore[misc]
    """gunicorn's own lines go where those of the application go, in the same form."""

    def setup(self, cfg: Any) -> None:
        """Called at the start, and whenever the configuration is read again."""
        super().setup(cfg)
        configure_logging(_settings, "web")
        self.error_log.handlers.clear()
        self.error_log.propagate = True

    def warning(self, msg: str, *args: object, **kwargs: Any) -> None:
        """gunicorn tells the bytes of a request that it cannot parse, among which a key may be: here the kind alone."""
        kind = sys.exc_info()[0]
        if kind is not None and msg.startswith(_UNREADABLE):
            msg = f"{msg.partition(': ')[0]}: {kind.__name__}".replace("%", "%%")
        super().warning(msg, *args, **kwargs)


logger_class = ServerLogger
worker_class = "gthread"
workers = 1
threads = _settings.web_threads
#: At DEBUG it writes the path of each request, with whatever a user put there.
loglevel = "info" if _settings.log_level == "DEBUG" else _settings.log_level.lower()
#: Longer than the longest `?wait=` of a poll.
graceful_timeout = int(_settings.max_wait_s) + 5
timeout = 60
keepalive = 15
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a heartbeat file, no data


def post_fork(_server: object, _worker: object) -> None:
    """The serving process ends with its master, also when that one is killed."""
    ask_for_death_signal(signal.SIGKILL)
