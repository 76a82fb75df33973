"""The embedded Valkey: a password that no process list shows, and an address that survives a crash."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from batchinfer.stack.valkey import EmbeddedValkey


def test_one_life(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path)
    try:
        url = valkey.start()
        address = urlsplit(url)
        assert address.password is not None
        assert address.port is not None
        with redis.Redis.from_url(url) as client:
            assert client.config_get("save") == {"save": ""}
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
            assert client.config_get("appendonly") == {"appendonly": "no"}
        with (
            redis.Redis(port=address.port, retry=Retry(NoBackoff(), 0)) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
        assert valkey.pid is not None
        assert address.password.encode() not in Path(f"/proc/{valkey.pid}/cmdline").read_bytes()
        assert address.password not in (tmp_path / "logs" / "valkey.log").read_text()

        os.kill(valkey.pid, signal.SIGKILL)
        assert valkey.child is not None
        assert valkey.child.wait(10)
        assert not valkey.answers()
        valkey.launch()
        valkey.wait_ready()
        assert valkey.url == url
    finally:
        valkey.stop()
    assert valkey.pid is None
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".rdb", ".aof"}]


def test_two_side_by_side_have_ports_of_their_own(tmp_path: Path) -> None:
    first, second = EmbeddedValkey(tmp_path / "a"), EmbeddedValkey(tmp_path / "b")
    try:
        assert urlsplit(first.start()).port != urlsplit(second.start()).port
    finally:
        first.stop()
        second.stop()
