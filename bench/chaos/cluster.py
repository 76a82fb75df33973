"""A whole service as real processes, each behind proxies of its own, looked after as `batchinfer up` does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import psycopg
from pydantic import SecretStr

from batchinfer.errors import BatchinferError
from batchinfer.services import fleet, keys
from batchinfer.services.context import open_context
from batchinfer.settings import load_settings
from batchinfer.stack.children import LAUNCHER
from batchinfer.stack.programs import child_environment
from bench.chaos.members import PATIENCE_S, Link, Member, kill_group
from bench.chaos.proxy import Proxy
from bench.chaos.seed import seed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.chaos.servers import Servers

ROOT = Path(__file__).resolve().parents[2]
MODEL = "fake-model"
#: Leases short enough to run out while a test waits, and everything else in proportion.
SHORT: dict[str, Any] = {
    "lease_ttl_s": 3.0, "heartbeat_s": 0.5, "poll_s": 0.2, "reap_s": 0.5, "drain_s": 6.0, "watchdog_s": 30.0,
}  # fmt: skip
#: Before a process that ended is started again.
RESTART_S = 0.3
WORKER = ("worker", "-P", "threads", "-c", "1", "--without-gossip", "--without-mingle")

T = TypeVar("T")


class NotInTime(AssertionError):
    """What was waited for did not come."""


class Cluster:
    """Web, beat, CPU and model workers on a database of their own. `look` and everything that waits belong to the
    main thread: it is the one that starts processes."""

    def __init__(
        self, folder: Path, servers: Servers, *, name: str = "chaos", release: Path | None = None, **changes: Any
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.servers = folder, servers
        #: What processes that are started from here on run from. `release`: a folder with another release, which makes
        #: the database, too.
        self.code = release or ROOT
        self.settings = load_settings(
            home=folder / "home",
            database_url=servers.new_database(migrated=release is None),
            redis_url=servers.valkey.url,
            secret_key="s" * 32,
            **{**SHORT, **changes},
        )
        servers.flush()
        self.ctx = open_context(self.settings, name=name, pool_size=6)
        self.api_key = seed(self.ctx, name, MODEL) if release is None else self._seed_by(release, name)
        self.caller = keys.authenticate(self.ctx, self.api_key)
        self.members: dict[str, Member] = {}
        self.links: dict[str, Link] = {}
        #: Whether ended workers are reported at once; without, only their silence tells.
        self.reporting = True
        self.restarts: Counter[str] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._unreported: list[tuple[int, str]] = []
        self._direct: psycopg.Connection[Any] | None = None

    def _seed_by(self, release: Path, name: str) -> str:
        command = [sys.executable, "-P", str(ROOT / "bench" / "chaos" / "seed.py"), name, MODEL]
        environment = {**child_environment(self.settings), "PYTHONPATH": str(release)}
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def link(self, name: str, host: str = "127.0.0.1") -> Link:
        """The proxies of that name."""
        if name not in self.links:
            made = [Proxy(_target(self._url_of(part)), host) for part in ("database_url", "redis_url")]
            self.links[name] = Link(*made)
        return self.links[name]

    # Starting

    def start(self, *, models: int = 2, cpus: int = 1, slots: int = 16, options: str = "{}") -> Cluster:
        """Web, beat and workers, and wait until all are healthy."""
        self.start_web()
        self.start_beat()
        for number in range(cpus):
            self.start_cpu(f"cpu-{number}")
        for number in range(models):
            self.start_model(f"model-{number}", slots=slots, options=options)
        self.wait_ready()
        return self

    def start_web(self, **more: Any) -> Member:
        """The API, on the listening socket that is ours: a connection waits while it is started anew."""
        command = ["-m", "gunicorn", "-c", "python:batchinfer.stack.gunicorn_settings"]
        number = self._listener.fileno()
        command += ["--bind", f"fd://{number}", "batchinfer.web:create_app()"]
        return self._want("web", "web", command, number, **more)

    def start_beat(self, name: str = "beat", **more: Any) -> Member:
        """The ticks."""
        return self._want(name, "beat", ["-m", "celery", "-A", "workers.beat", "-q", "beat"], **more)

    def start_cpu(self, name: str, *, processes: int = 1, **changes: Any) -> Member:
        """A CPU worker."""
        command = ["-m", "celery", "-A", "workers.cpu", *WORKER, "-n", f"{name}@here", "--processes", str(processes)]
        return self._want(name, "cpu", command, **changes)

    def start_model(
        self, name: str, *, slots: int = 16, options: str = "{}", prefix: Sequence[str] = (), **changes: Any
    ) -> Member:
        """A model worker with the fake engine. `prefix` is put before its command; `changes` are settings,
        `link_host` where its proxies listen, `supervised`, and `environment`."""
        command = ["-m", "celery", "-A", "workers.model", *WORKER, "-n", f"{name}@here", "--model", MODEL]
        command += ["--device", "cpu", "--engine", "fake", "--slots", str(slots), "--engine-options", options]
        return self._want(name, "model", command, prefix=prefix, **changes)

    def start_host(self, name: str, **changes: Any) -> Member:
        """A keeper of its own home, with one CPU worker, which starts what rows assign to the host of that name."""
        home = self.folder / f"{name}-home"
        command = ["-m", "batchinfer.cli", "host", "--home", str(home), "--name", name, "--cpu-workers", "1"]
        return self._want(name, "host", command, **changes)

    def _want(
        self,
        name: str,
        role: str,
        command: Sequence[str],
        *keep: int,
        prefix: Sequence[str] = (),
        link_host: str = "127.0.0.1",
        supervised: bool = True,
        environment: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> Member:
        link = self.link(name, link_host)
        addresses = {
            "database_url": _through(self._url_of("database_url"), link_host, link.database.port),
            "redis_url": _through(self._url_of("redis_url"), link_host, link.redis.port),
        }
        settings = self.settings.model_copy(update={**addresses, **changes})
        member = self.members[name] = Member(
            name,
            role,
            [*prefix, sys.executable, *command],
            {**child_environment(settings), "PYTHONPATH": str(self.code), **(environment or {})},
            self.folder / f"{name}.log",
            supervised=supervised,
            keep=keep,
        )
        self.start_member(member)
        return member

    def start_member(self, member: Member) -> None:
        """Start it. It ends with us, whatever happens to us."""
        ends_with_us = [sys.executable, "-I", "-S", str(LAUNCHER), "--parent", str(os.getpid()), "--signal", "9", "--"]
        with member.log.open("ab") as output:
            member.popen = subprocess.Popen(
                [*ends_with_us, *member.argv],
                env=dict(member.environment),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=member.keep,
                start_new_session=True,
            )

    # Looking after

    def look(self) -> None:
        """Report what ended, and start again what is wanted."""
        now_s = time.monotonic()
        for member in self.members.values():
            if member.popen is None or member.popen.poll() is None:
                continue
            if len(member.ends) <= self.restarts[member.name]:
                member.ends.append(member.popen.returncode)
                member.start_at_s = now_s + RESTART_S
                kill_group(member.pid)
                if member.role in {"model", "cpu"} and self.reporting and member.supervised:
                    self._unreported.append((member.pid, f"exit status {member.popen.returncode}"))
            if member.supervised and now_s >= member.start_at_s:
                self.restarts[member.name] += 1
                self.start_member(member)
        self._report()

    def _report(self) -> None:
        while self._unreported:
            pid, how = self._unreported[0]
            try:
                fleet.end_process(self.ctx, socket.gethostname(), pid, f"the process ended: {how}")
            except BatchinferError:
                return  # no database just now: tried again at the next look
            self._unreported.pop(0)

    def wait(self, condition: Callable[[], T], what: str, timeout_s: float = PATIENCE_S, pause_s: float = 0.05) -> T:
        """The first true answer of `condition`, while everything is looked after. Raises NotInTime."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.look()
            with suppress(BatchinferError, psycopg.OperationalError, OSError):
                if found := condition():
                    return found
            time.sleep(pause_s)
        raise NotInTime(f"not within {timeout_s} s: {what}\n{self.tail_logs()}")

    def rest(self, seconds: float) -> None:
        """Look after everything for a while."""
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            self.look()
            time.sleep(min(0.1, left_s))

    def wait_ready(self, timeout_s: float = PATIENCE_S) -> None:
        """Until each model and CPU worker that is wanted holds a lease, beat ticks and the API answers."""

        def ready() -> bool:
            wanted = {m.pid for m in self.members.values() if m.role in {"model", "cpu"} and (m.supervised or m.alive)}
            living = {pid for (pid,) in self.sql("SELECT pid FROM leases WHERE NOT dead")}
            return wanted <= living and ("web" not in self.members or self._api_answers())

        self.wait(ready, "the service is ready", timeout_s)

    def heal(self) -> None:
        """Mend every link, start the servers where they are down, and wait until all is ready."""
        for link in self.links.values():
            link.mend()
        self.reporting = True
        self.servers.revive()
        for member in self.members.values():
            member.send(signal.SIGCONT)
        self.wait_ready()

    def kill(self, name: str) -> None:
        """kill -9, the serving process of gunicorn too."""
        for pid in self.members[name].list_tree():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def retire(self, name: str, timeout_s: float = PATIENCE_S) -> int:
        """SIGTERM, and want it no more; waits for its end. Answers its exit status."""
        member = self.members.pop(name)
        member.send(signal.SIGTERM)
        self.wait(lambda: not member.alive, f"{name} has ended", timeout_s)
        return member.wait()

    def remove(self, name: str) -> None:
        """Kill it and want it no more; its end is reported."""
        member = self.members.pop(name)
        member.send(signal.SIGCONT)
        member.send(signal.SIGKILL)
        if member.popen is not None:
            member.popen.wait(10)
            kill_group(member.pid)
            self._unreported.append((member.pid, "removed"))
        self._report()
        if name in self.links:
            self.links.pop(name).database.close()

    def close(self) -> None:
        """Kill everything of ours and let go; the servers stay."""
        for name in list(self.members):
            self.members[name].send(signal.SIGCONT)
            self.kill(name)
            self.members[name].wait(10)
            kill_group(self.members[name].pid)
        for link in self.links.values():
            link.database.close()
            link.redis.close()
        self._listener.close()
        if self._direct is not None:
            self._direct.close()
        self.ctx.close()

    # Asking

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement directly, as no interface would. Raises psycopg.Error."""
        if self._direct is not None:
            try:
                return _run(self._direct, statement, values)
            except psycopg.OperationalError:  # the server was ended since
                self._direct.close()
        self._direct = psycopg.connect(self._url_of("database_url"), autocommit=True, connect_timeout=5)
        return _run(self._direct, statement, values)

    def count(self, statement: str, *values: Any) -> int:
        """The one number that a statement answers."""
        return int(self.sql(statement, *values)[0][0])

    def count_events(self, event: str, value: str | None = None, role: str = "model") -> int:
        """How often a line was logged by the processes of a role, or the sum of one of its values."""
        found = [line for m in self.members.values() if m.role == role for line in m.read_events()]
        return sum(int(line.get(value, 0)) if value else 1 for line in found if line.get("event") == event)

    def tail_logs(self) -> str:
        """The ends of all logs, for a failed assertion."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)

    def _api_answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._listener.getsockname()[1]), timeout=2) as connection:
            connection.settimeout(2)
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(64)

    def _url_of(self, name: str) -> str:
        secret: SecretStr | None = getattr(self.settings, name)
        assert secret is not None
        return secret.get_secret_value()


def _run(connection: psycopg.Connection[Any], statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    cursor = connection.execute(statement.encode(), values or None)
    return cursor.fetchall() if cursor.description else []


def _target(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def _through(url: str, host: str, port: int) -> SecretStr:
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return SecretStr(urlunsplit(parts._replace(netloc=f"{user}{at}{host}:{port}")))
