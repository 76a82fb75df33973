"""Where the servers of a running `up` are, for the other verbs of the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import SecretStr

from batchinfer.errors import StartError

if TYPE_CHECKING:
    from batchinfer.settings import Settings

#: In the home, for its owner alone, while `up` runs.
RUNNING_FILE = "servers.json"


def describe_servers(settings: Settings) -> str:
    """The addresses, with their passwords, as JSON."""
    return json.dumps({"database_url": settings.require_database_url(), "redis_url": settings.require_redis_url()})


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
    return settings.model_copy(update={name: ours[name] or SecretStr(url) for name, url in found.items()})
