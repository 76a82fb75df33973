"""Postgres and Valkey for faults: crashed, filled, frozen and started again at the same address."""

from __future__ import annotations

import os
import secrets
import signal
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis

from batchinfer.stack.orphans import end_processes, find_postgres
from batchinfer.stack.postgres import EmbeddedPostgres
from batchinfer.stack.valkey import EmbeddedValkey
from batchinfer.store.migrate import upgrade

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batchinfer.stack.children import Program


class Postgres(EmbeddedPostgres):
    """An embedded Postgres whose environment may be added to (a clock of its own)."""

    def __init__(self, home: Path, *, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(home, fsync=False)
        self._environment = dict(environment or {})

    def _program(self, binary: str, arguments: list[str], stdin: str = "") -> Program:
        program = super()._program(binary, arguments, stdin)
        return replace(program, env={**program.env, **self._environment})

    def crash(self) -> None:
        """End it without a checkpoint, as `pg_ctl stop -m immediate` does, and leave it down."""
        if self.child is not None:
            self.child.send(signal.SIGQUIT)
            self.child.wait(10.0)
            self.child.kill()
            end_processes(find_postgres(self.data), signal.SIGKILL)

    def restart(self) -> None:
        """Start it again at the same address. Raises StartError."""
        self.launch()
        self.wait_ready()


class Servers:
    """One Postgres with a migrated template, and one Valkey; started once, used by many clusters in turn."""

    def __init__(self, home: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.postgres = Postgres(home, environment=environment)
        self.valkey = EmbeddedValkey(home)
        self._template = ""

    def start(self) -> None:
        """Start both and migrate the template. Raises StartError."""
        self.valkey.launch()
        self.postgres.start()
        self.valkey.wait_ready()
        name = "chaos_template"
        self.run(f'CREATE DATABASE "{name}"')
        upgrade(self._address(name))
        self._template = name

    def new_database(self, *, migrated: bool = True) -> str:
        """The address of a fresh database; `migrated` False: one without a single table."""
        name = f"chaos_{secrets.token_hex(4)}"
        self.run(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{self._template}"' if migrated else ""))
        return self._address(name)

    def flush(self) -> None:
        """Empty Redis."""
        with redis.Redis.from_url(self.valkey.url) as client:
            client.flushall()

    def kill_valkey(self) -> None:
        """kill -9, and leave it down."""
        if self.valkey.pid is not None:
            os.kill(self.valkey.pid, signal.SIGKILL)
        if self.valkey.child is not None:
            self.valkey.child.wait(10.0)

    def revive(self) -> None:
        """Start what does not run. Raises StartError."""
        if self.valkey.pid is None:
            self.valkey.start()
        if self.postgres.pid is None:
            self.postgres.restart()

    def stop(self) -> None:
        """End both."""
        self.valkey.stop()
        with suppress(ProcessLookupError):
            self.postgres.stop()

    def _address(self, name: str) -> str:
        return urlunsplit(urlsplit(self.postgres.url)._replace(path=f"/{name}"))

    def run(self, statement: str) -> None:
        """Run a statement in the database beside all others."""
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(statement.encode())
