"""Keepers of hosts in the test's own process, with real model processes on the fake engine, and what the rows say."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from batchinfer.services import models

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from batchinfer.stack.processes import Processes
    from batchinfer.stack.signals import Signals

MODEL = "fake-model"
PATIENCE_S = 240.0


@dataclass
class House:
    """One host's keeper, run by the test's own thread."""

    processes: Processes
    signals: Signals
    said: list[str]

    def step(self) -> None:
        self.processes.step(self.signals, 0.05)

    def pids(self) -> list[int]:
        return self.processes.supervisor.pids().get("model", [])

    def find_pid(self, worker: str) -> int:
        """The process of a replica's worker."""
        places = self.processes.supervisor.places
        child = next(place.child for place in places if place.name == worker.partition("@")[0])
        assert child is not None
        return child.pid

    def stop(self) -> None:
        self.processes.close(hurry=lambda: False)


class Rows:
    """What the database says."""

    def __init__(self, ctx: Any) -> None:
        self.ctx = ctx

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        address = self.ctx.settings.database_url.get_secret_value()
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def states(self) -> list[str]:
        return [row[0] for row in self.query("SELECT state FROM replicas ORDER BY id")]

    def count(self, condition: str) -> int:
        return int(self.query(f"SELECT count(*) FROM replicas WHERE {condition}")[0][0])  # noqa: S608

    def read_log(self, worker: str = "model0") -> str:
        """What the processes of a place have logged."""
        log = self.ctx.settings.logs_dir / f"{worker}.log"
        return log.read_text(errors="replace") if log.exists() else ""


class Hold:
    """Lets no replica come to a state: it stays in the one before, as if its work there took long. So does a swap that
    is to switch, with the state `switched`."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        rows.query("CREATE TABLE held (state TEXT, revision TEXT)")
        rows.query("""
            CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF EXISTS (SELECT 1 FROM held WHERE held.state = NEW.state
                           AND coalesce(held.revision, NEW.revision) = NEW.revision) THEN
                    RAISE EXCEPTION 'held' USING ERRCODE = '55P03';
                END IF;
                RETURN NEW;
            END $$
        """)
        rows.query("CREATE TRIGGER hold BEFORE UPDATE ON replicas FOR EACH ROW EXECUTE FUNCTION hold()")
        rows.query("""
            CREATE FUNCTION hold_switch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.revision IS DISTINCT FROM OLD.revision
                    AND EXISTS (SELECT 1 FROM held WHERE held.state = 'switched') THEN
                    RAISE EXCEPTION 'held' USING ERRCODE = '55P03';
                END IF;
                RETURN NEW;
            END $$
        """)
        rows.query("CREATE TRIGGER hold BEFORE UPDATE ON deployments FOR EACH ROW EXECUTE FUNCTION hold_switch()")

    def __call__(self, state: str, revision: str | None = None) -> None:
        """Hold this state back, of all revisions or of one, and no other state."""
        self.release()
        self._rows.query("INSERT INTO held VALUES (%s, %s)", state, revision)

    def release(self) -> None:
        """Hold nothing."""
        self._rows.query("DELETE FROM held")


def run_until(houses: list[House], condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Let keepers do their work until something holds."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for house in houses:
            house.step()
        if value := condition():
            return value
    logs = [path for house in houses for path in house.processes._ctx.settings.logs_dir.glob("*.log")]
    pytest.fail(f"not within {timeout_s} s: {what}\n" + "\n".join(path.read_text()[-3000:] for path in logs))


def want(ctx: Any, name: str = MODEL, number: int = 1) -> UUID:
    """A deployment on the fake engine."""
    models.register_model(ctx, name, f"/nowhere/{name}", "r1")
    return models.ensure_deployment(ctx, name, engine="fake", device="cpu", replicas=number)
