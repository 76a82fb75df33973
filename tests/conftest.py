"""Real servers for every test: embedded Postgres and Valkey, or those that two environment variables name.

`make test-external` sets BATCHINFER_DATABASE_URL (a role that may create databases) and BATCHINFER_REDIS_URL;
then tests make databases named batchinfer_test_… there and drop them, and use an empty Redis database.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis
import structlog
from psycopg.conninfo import conninfo_to_dict

from batchinfer.settings import Settings, load_settings
from batchinfer.stack.postgres import EmbeddedPostgres
from batchinfer.stack.valkey import EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchinfer.services.context import Caller, Context

#: Read once, then taken out of the environment with every other setting: a test states what it needs.
EXTERNAL_DATABASE = os.environ.get("BATCHINFER_DATABASE_URL")
EXTERNAL_REDIS = os.environ.get("BATCHINFER_REDIS_URL")
#: Servers of this machine that are none of our business: Postgres, RabbitMQ, Redis; unless they were named.
FOREIGN_PORTS = {5432, 5672, 6379}
if EXTERNAL_DATABASE and EXTERNAL_REDIS:
    FOREIGN_PORTS -= {urlsplit(EXTERNAL_DATABASE).port or 5432, urlsplit(EXTERNAL_REDIS).port or 6379}
#: A file system that is in memory.
_MEMORY = Path("/dev/shm")
SCOPES = ["submit", "read", "cancel", "fetch", "launch", "admin"]


#: Folders whose files take the longest, in this order: begun first, so that none is left with them alone at the end.
_SLOW = ("worker", "e2e", "remote", "engine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _SLOW.index(folder) if (folder := item.path.parent.name) in _SLOW else len(_SLOW))


def pytest_configure() -> None:
    # Before torch is imported: threads that wait for one another in several test processes cost more than they bring.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in [name for name in os.environ if name.startswith("BATCHINFER_")]:
        del os.environ[name]


@dataclass(frozen=True)
class Servers:
    """The two servers of this run; `database_url` names the database from which others are made."""

    database_url: str
    redis_url: str
    external: bool


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Started once a run, or those that the environment names."""
    if EXTERNAL_DATABASE and EXTERNAL_REDIS:
        yield Servers(EXTERNAL_DATABASE, EXTERNAL_REDIS, external=True)
        _close_admins()
        return
    with ExitStack() as stack:
        home = stack.enter_context(_folder_in_memory()) or tmp_path_factory.mktemp("servers")
        postgres, valkey = EmbeddedPostgres(home, fsync=False), EmbeddedValkey(home)
        stack.callback(valkey.stop)
        stack.callback(postgres.stop)
        stack.callback(_close_admins)
        valkey.launch()
        postgres.start()
        valkey.wait_ready()
        yield Servers(postgres.url, valkey.url, external=False)


@contextmanager
def _folder_in_memory() -> Iterator[Path | None]:
    """A folder that no disk holds, where this machine has room for one: each test's database is 600 files, made and
    removed. Those of runs that were killed are cleared away: nobody holds their lock."""
    if not (_MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 * 2**30):
        yield None
        return
    for left in _MEMORY.glob("batchinfer-tests-*"):
        with suppress(OSError), _opened(left) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - left.stat().st_mtime > 60:  # else its own run may be about to lock it
                shutil.rmtree(left)
    made = Path(tempfile.mkdtemp(prefix="batchinfer-tests-", dir=_MEMORY))
    with _opened(made) as folder:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield made
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture(scope="session")
def template(servers: Servers) -> Iterator[str]:
    """The name of a migrated, empty database from which each test's own is copied."""
    with _new_database(servers.database_url) as name:
        migrate(_with_database(servers.database_url, name))
        yield name


@pytest.fixture
def database_url(servers: Servers, template: str) -> Iterator[str]:
    """A migrated database of this test's own, as postgresql://…"""
    with _new_database(servers.database_url, template) as name:
        yield _with_database(servers.database_url, name)


@pytest.fixture
def empty_database_url(servers: Servers) -> Iterator[str]:
    """A database of this test's own without a single table."""
    with _new_database(servers.database_url) as name:
        yield _with_database(servers.database_url, name)


_numbers = itertools.count()


@pytest.fixture
def redis_url(servers: Servers) -> Iterator[str]:
    """An empty Redis database of this test's own."""
    number = _find_empty_redis(servers.redis_url) if servers.external else next(_numbers) % 16
    url = _with_database(servers.redis_url, str(number))
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings of a fresh installation: own database, own Redis database, home in the test's folder."""
    return load_settings(
        home=tmp_path / "home",
        database_url=database_url,
        redis_url=redis_url,
        secret_key=secrets.token_urlsafe(32),
        # No test leaves this machine: whatever asks a hub is refused, unless the test has one of its own.
        hub_url="http://127.0.0.1:9",
        modelscope_url="http://127.0.0.1:9",
    )


@pytest.fixture
def context(settings: Settings) -> Iterator[Context]:
    """What every service function takes first."""
    from batchinfer.services.context import open_context

    opened = open_context(settings)
    yield opened
    opened.close()


@pytest.fixture
def api_key(context: Context) -> str:
    """A fresh API key of the default tenant with all scopes, as a client sends it."""
    from batchinfer.services.keys import create_key, ensure_default_tenant

    ensure_default_tenant(context)
    return create_key(context, "tests", SCOPES)[1]


@pytest.fixture
def caller(context: Context, api_key: str) -> Caller:
    """Who calls with `api_key`."""
    from batchinfer.services.keys import authenticate

    return authenticate(context, api_key)


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What is logged from here on, a dict a line, whether or not an earlier test configured logging."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture(autouse=True)
def only_our_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections to servers of this machine that happen to listen on the usual ports."""

    def guard_socket(name: str) -> None:
        original = getattr(socket.socket, name)

        def connect(self: socket.socket, address: Any) -> Any:
            if isinstance(address, tuple) and address[1] in FOREIGN_PORTS:
                pytest.fail(f"a test tried to connect to {address[0]}:{address[1]}, which is no server of this run")
            return original(self, address)

        monkeypatch.setattr(socket.socket, name, connect)

    guard_socket("connect")
    guard_socket("connect_ex")
    original = psycopg.Connection.connect

    def connect(conninfo: str = "", **options: Any) -> Any:  # libpq opens its own sockets
        port = int(options.get("port") or conninfo_to_dict(conninfo).get("port") or 5432)
        if port in FOREIGN_PORTS:
            pytest.fail(f"a test tried to connect to Postgres on port {port}, which is no server of this run")
        return original(conninfo, **options)

    monkeypatch.setattr(psycopg.Connection, "connect", connect)
    monkeypatch.setattr(psycopg, "connect", connect)


def migrate(url: str) -> None:
    """Bring an empty database to the newest schema, as `batchinfer migrate` does."""
    try:
        from batchinfer.store.migrate import upgrade
    except ModuleNotFoundError:
        _create_all(url)
    else:
        upgrade(url)


def _create_all(url: str) -> None:
    import sqlalchemy

    from batchinfer.store.tables import metadata

    engine = sqlalchemy.create_engine("postgresql+psycopg://" + url.split("://", 1)[1])
    with engine.begin() as connection:
        metadata.create_all(connection)
        for table in ("jobs", "results", "attempts"):
            connection.execute(sqlalchemy.text(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT"))
    engine.dispose()


class _new_database:  # noqa: N801 - used like a function
    """A context manager: create a database, yield its name, drop it with whoever is still connected."""

    def __init__(self, admin_url: str, template: str | None = None) -> None:
        self.admin_url = admin_url
        self.name = f"batchinfer_test_{secrets.token_hex(6)}"
        self.template = template

    def __enter__(self) -> str:
        # Whole files: half the time of the other way where nothing waits for the disk, as in our own servers.
        how = "" if EXTERNAL_DATABASE else " STRATEGY FILE_COPY"
        copy = f' TEMPLATE "{self.template}"{how}' if self.template else ""
        self._run(f'CREATE DATABASE "{self.name}"{copy}')
        return self.name

    def __exit__(self, *_: object) -> None:
        self._run(f'DROP DATABASE "{self.name}" WITH (FORCE)')

    def _run(self, statement: str) -> None:
        # One connection a run: to open two for each test took a tenth of the whole time.
        if self.admin_url not in _admins:
            _admins[self.admin_url] = psycopg.connect(self.admin_url, autocommit=True)
        _admins[self.admin_url].execute(statement.encode())


#: Connections that make and drop databases, by address; closed with the servers.
_admins: dict[str, psycopg.Connection[Any]] = {}


def _close_admins() -> None:
    while _admins:
        _admins.popitem()[1].close()


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _find_empty_redis(url: str) -> int:
    """The highest-numbered empty database of 15…0. A server whose databases are all in use is left alone."""
    for number in range(15, -1, -1):
        try:
            with redis.Redis.from_url(_with_database(url, str(number))) as client:
                if client.dbsize() == 0:
                    return number
        except redis.ResponseError:
            continue  # a server with fewer databases
    pytest.exit(
        "No empty database on the server of BATCHINFER_REDIS_URL: tests flush only what was empty.",
        returncode=2,
    )


@dataclass
class Receiver:
    """A real HTTP server that webhooks are sent to. It answers `statuses`, one a request and the last one for ever;
    where `behave` is set, that has the connection."""

    url: str = ""
    statuses: list[int] = field(default_factory=lambda: [200])
    headers: dict[str, str] = field(default_factory=dict)
    behave: Callable[[socket.socket], None] | None = None
    #: (headers by their names in lower case, body) of each request.
    taken: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.taken.append(({name.lower(): value for name, value in handler.headers.items()}, body))
        if self.behave is not None:
            handler.close_connection = True
            with suppress(OSError):
                self.behave(handler.connection)
            return
        handler.send_response(self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])
        for name, value in {"Content-Length": "0", **self.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()

    @property
    def ids(self) -> list[str]:
        """The `webhook-id` of each request."""
        return [headers["webhook-id"] for headers, _ in self.taken]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks on this machine."""
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        timeout = 20

        def do_POST(self) -> None:
            made.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        made.url = f"http://127.0.0.1:{server.server_address[1]}/hook?a=b"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made
        server.shutdown()
        thread.join()
