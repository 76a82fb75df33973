"""What listens, listens on loopback unless it is told otherwise."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
import redis

from batchinfer.settings import load_settings
from batchinfer.stack.up import bind


def test_what_listens_listens_on_loopback(servers: Any) -> None:
    settings = load_settings()
    with bind(settings.host, settings.port) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    if servers.external:
        pytest.skip("the servers of this run are somebody else's")
    with psycopg.connect(servers.database_url) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
