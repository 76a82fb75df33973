"""Where the servers of a running `up` are, and its web server, for the other verbs of the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from batchinfer.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.settings import Settings

#: In the home, for its owner alone, while `up` runs.
RUNNING_FILE = "servers.json"
#: The file of the home that holds the key which `up` prints.
KEY_FILE = "api-key"


@dataclass(frozen=True)
class RunningService:
    """Address and key of the service that runs in a home."""

    url: str
    api_key: str


def describe_servers(settings: Settings, url: str) -> str:
    """The addresses, with their passwords, and that of the web server, as JSON."""
    servers = {"database_url": settings.require_database_url(), "redis_url": settings.require_redis_url()}
    return json.dumps({**servers, "url": url})


def show_url(host: str, port: int) -> str:
    """Where a browser or client of this machine finds a web server that listens there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def find_service(home: Path) -> RunningService | None:
    """The service of the `up` that runs in a home; None where none does, or its key is not ours to read."""
    try:
        url = json.loads((home / RUNNING_FILE).read_text()).get("url")
        key = (home / KEY_FILE).read_text().strip()
    except (OSError, ValueError):
        return None
    return RunningService(url, key) if url and key else None


def find_servers(settings: Settings) -> Settings:
    """Settings with both addresses: those that are set, else those of the `up` that runs in the home.

    Raises StartError where neither is there.
    """
    if settings.database_url and settings.redis_url:
        return settings
    try:
        found = json.loads((settings.home / RUNNING_FILE).read_text())
    except (OSError, ValueError):
        raise StartError(
            f"No servers are known: nothing runs in the home {settings.home}. Start `batchinfer up` there, "
            "or set BATCHINFER_DATABASE_URL and BATCHINFER_REDIS_URL."
        ) from None
    ours = {"database_url": settings.database_url, "redis_url": settings.redis_url}
    return settings.model_copy(update={name: ours[name] or SecretStr(found[name]) for name in ours if name in found})
