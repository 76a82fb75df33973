"""The fixtures themselves: each test has its own database and Redis, and no foreign server can be reached."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

if TYPE_CHECKING:
    from batchinfer.settings import Settings


@pytest.mark.parametrize("_again", [1, 2])
def test_each_test_has_a_fresh_database(settings: Settings, _again: int) -> None:
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        assert connection.execute("SELECT count(*) FROM tenants").fetchone() == (0,)
        connection.execute("INSERT INTO tenants (id, name) VALUES (gen_random_uuid(), 'x')")
        names = {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert {"jobs", "jobs_default", "queue", "results"} <= names


@pytest.mark.parametrize("_again", [1, 2])
def test_each_test_has_an_empty_redis(redis_url: str, _again: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "over")


@pytest.mark.parametrize("port", [5432, 5672, 6379])
def test_foreign_servers_are_refused(servers: Any, port: int) -> None:
    if port in _named_ports(servers):
        pytest.skip("this server was named")
    with socket.socket() as client, pytest.raises(pytest.fail.Exception, match="no server of this run"):
        client.connect(("127.0.0.1", port))


def test_foreign_postgres_is_refused_too(servers: Any) -> None:
    if 5432 in _named_ports(servers):
        pytest.skip("this server was named")
    with pytest.raises(pytest.fail.Exception, match="no server of this run"):
        psycopg.connect("postgresql://nobody@localhost/postgres")


def _named_ports(servers: Any) -> set[int]:
    if not servers.external:
        return set()
    return {urlsplit(servers.database_url).port or 5432, urlsplit(servers.redis_url).port or 6379}
