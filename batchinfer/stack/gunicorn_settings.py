"""What gunicorn reads at its start: one process of threads, no control socket, nothing left behind."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from batchinfer.errors import SettingsError
from batchinfer.settings import load_settings
from batchinfer.stack.launch import ask_for_death_signal

try:
    _settings = load_settings()
except SettingsError as error:
    sys.exit(error.message)

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
