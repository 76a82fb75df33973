"""A keeper with real model processes on the fake engine: killed in each phase, cancelled, put to sleep, woken."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from batchinfer.errors import StartError
from batchinfer.services import models
from batchinfer.services import work as verbs
from batchinfer.services.context import open_context
from batchinfer.stack.processes import Processes
from batchinfer.stack.signals import Signals
from batchinfer.store.hosts import Device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

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

    def stop(self) -> None:
        self.processes.close(hurry=lambda: False)


class Rows:
    """What the database says."""

    def __init__(self, ctx: Any) -> None:
        self.ctx = ctx

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        address = self.ctx.settings.database_url.get_secret_value()
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def states(self) -> list[str]:
        return [row[0] for row in self.query("SELECT state FROM replicas ORDER BY id")]

    def count(self, condition: str) -> int:
        return int(self.query(f"SELECT count(*) FROM replicas WHERE {condition}")[0][0])  # noqa: S608


@pytest.fixture
def rows(context: Any) -> Rows:
    return Rows(context)


@pytest.fixture
def open_house(settings: Any) -> Iterator[Callable[..., House]]:
    """Keepers of hosts by name; what they hold is ended with the test."""
    opened = []
    with Signals() as signals:

        def make(host: str = "one", **changes: Any) -> House:
            ctx = open_context(settings.model_copy(update={"host_name": host, **changes}), name=host, pool_size=3)
            said: list[str] = []
            processes = Processes(ctx, [Device("cpu", "cpu")], lambda _pids: None, said.append)
            house = House(processes, signals, said)
            opened.append((house, ctx))
            processes.keeper.open()
            return house

        yield make
        for house, ctx in opened:
            house.processes.keeper.close()
            house.processes.supervisor.stop(["model"], 0.0, hurry=lambda: True)
            ctx.close()


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
    models.register_model(ctx, name, f"/nowhere/{name}", "r1")
    return models.ensure_deployment(ctx, name, engine="fake", device="cpu", replicas=number)


def test_a_wish_becomes_a_ready_model_that_says_how_it_came_up(work, rows, open_house) -> None:
    house = open_house()
    want(work.ctx)
    run_until([house], lambda: rows.count("state = 'ready'") == 1, "it is ready")
    (found,) = rows.query("SELECT worker, host, phases, versions, lease_id IS NOT NULL, memory_mib FROM replicas")
    worker, host, phases, versions, leased, memory_mib = found
    assert (worker, host, leased) == ("model0@one", "one", True)
    assert {"start", "read", "warm_up"} <= set(phases)
    assert phases["start"] > 0
    assert {"batchinfer", "engine"} <= set(versions)
    assert memory_mib > 0
    job = work.submit("hello")
    run_until([house], lambda: work.state(job).value == "succeeded", "it answers")
    house.stop()
    assert rows.states() == ["stopped"]
    assert rows.query("SELECT ended_at IS NOT NULL FROM hosts") == [(True,)]


def test_killed_when_ready_it_comes_back_at_once_and_its_jobs_too(work, rows, open_house) -> None:
    house = open_house()
    want(work.ctx)
    run_until([house], lambda: rows.count("state = 'ready'") == 1, "it is ready")
    jobs = [work.submit(f"[[steps:3000]] {number}", max_tokens=4000) for number in range(12)]
    run_until([house], lambda: any(work.state(job).value == "running" for job in jobs), "jobs run")
    (killed,) = house.pids()
    os.kill(killed, signal.SIGKILL)
    run_until([house], lambda: rows.states()[0] == "failed", "its end is known")
    assert rows.query("SELECT dead FROM leases WHERE pid = %s", killed) == [(True,)]
    run_until([house], lambda: all(work.state(job).value == "succeeded" for job in jobs), "all are answered")
    assert house.pids() != [killed]
    assert rows.states() == ["failed", "ready"]
    assert rows.query("SELECT DISTINCT worker FROM replicas") == [("model0@one",)]
    assert rows.query("SELECT failures FROM deployments") == [(0,)]
    assert any("model0" in line and "killed by signal 9" in line for line in house.said)


@pytest.fixture
def hold(rows) -> Iterator[Callable[[str], None]]:
    """Let no replica come to a state: it stays in the one before, as if its work there took long. `""` lets go."""
    rows.query("CREATE TABLE held (state TEXT)")
    rows.query("""
        CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF EXISTS (SELECT 1 FROM held WHERE held.state = NEW.state) THEN
                RAISE EXCEPTION 'held' USING ERRCODE = '55P03';
            END IF;
            RETURN NEW;
        END $$
    """)
    rows.query("CREATE TRIGGER hold BEFORE UPDATE ON replicas FOR EACH ROW EXECUTE FUNCTION hold()")

    def set_to(state: str) -> None:
        rows.query("DELETE FROM held")
        rows.query("INSERT INTO held VALUES (%s)", state)

    yield set_to
    rows.query("DELETE FROM held")


@pytest.mark.parametrize(("phase", "following"), [("planned", "loading"), ("loading", "verifying"),
                                                  ("verifying", "ready")])  # fmt: skip
def test_killed_before_it_is_ready_it_is_tried_again(work, rows, open_house, hold, phase, following) -> None:
    hold(following)
    house = open_house()
    want(work.ctx)
    (pid,) = run_until([house], lambda: rows.states() == [phase] and house.pids(), f"it is {phase}")
    if phase == "verifying":
        run_until([house], lambda: rows.query("SELECT 1 FROM leases WHERE pid = %s", pid), "it wants to be ready")
    os.kill(pid, signal.SIGKILL)
    run_until([house], lambda: rows.states()[0] == "failed", "its end is known")
    assert rows.query("SELECT error ->> 'code' FROM replicas ORDER BY id LIMIT 1") == [("worker_lost",)]
    assert rows.query("SELECT failures, next_try_at > now() FROM deployments") == [(1, True)]
    hold("")
    run_until([house], lambda: rows.count("state = 'ready'") == 1, "it is ready all the same")
    assert rows.query("SELECT failures, next_try_at FROM deployments") == [(0, None)]


def test_a_state_that_could_not_be_written_is_written_later(work, rows, open_house, hold) -> None:
    hold("ready")
    house = open_house()
    want(work.ctx)
    run_until([house], lambda: rows.query("SELECT 1 FROM leases"), "it works")
    assert rows.states() == ["verifying"]
    hold("")
    run_until([house], lambda: rows.states() == ["ready"], "its row says so")


@pytest.mark.parametrize(("phase", "following"), [("planned", "loading"), ("loading", "verifying")])
def test_a_load_is_cancelled(work, rows, open_house, hold, phase, following) -> None:
    hold(following)
    house = open_house()
    wanted = want(work.ctx)
    run_until([house], lambda: rows.states() == [phase] and house.pids(), f"it is {phase}")
    rows.query("UPDATE deployments SET stopped_at = now() WHERE id = %s", wanted)
    run_until([house], lambda: not house.pids() and rows.states() == ["stopped"], "it is gone")
    assert rows.query("SELECT failures FROM deployments") == [(0,)]


def test_a_model_that_cannot_be_loaded_is_put_off(work, rows, open_house) -> None:
    house = open_house()
    wanted = want(work.ctx)
    rows.query("UPDATE deployments SET engine = 'static' WHERE id = %s", wanted)
    run_until([house], lambda: rows.query("SELECT failures FROM deployments")[0][0] >= 2, "it failed twice")
    (state, error, _) = rows.query("SELECT state, error ->> 'code', id FROM replicas ORDER BY id")[0]
    assert state == "failed"
    assert error not in (None, "worker_lost")
    assert rows.query("SELECT next_try_at > now() FROM deployments") == [(True,)]


def test_idle_it_sleeps_and_a_job_that_waits_wakes_it(work, rows, open_house) -> None:
    house = open_house()
    wanted = want(work.ctx)
    run_until([house], lambda: rows.count("state = 'ready'") == 1, "it is ready")
    rows.query("UPDATE deployments SET idle_s = 1 WHERE id = %s", wanted)
    run_until([house], lambda: rows.query("SELECT asleep FROM deployments") == [(True,)], "it sleeps")
    run_until([house], lambda: rows.states() == ["stopped"] and not house.pids(), "its process is gone")
    job = work.submit("wake up")
    run_until([house], lambda: work.state(job).value == "succeeded", "it wakes and answers")
    assert work.get(job).attempts == 1


def test_two_models_are_held_and_the_more_urgent_one_is_loaded_first(work, rows, open_house) -> None:
    want(work.ctx, "second")
    first = want(work.ctx, "first")
    rows.query("UPDATE deployments SET priority = 5 WHERE id = %s", first)
    house = open_house()
    run_until([house], lambda: rows.count("state = 'ready'") == 2, "both are ready")
    assert rows.query("SELECT model FROM replicas ORDER BY ready_at") == [("first",), ("second",)]


def test_what_stands_by_holds_no_lease_until_it_is_to_serve(work, rows, open_house) -> None:
    house = open_house()
    wanted = want(work.ctx)
    run_until([house], lambda: rows.count("state = 'ready'") == 1, "it is ready")
    rows.query("UPDATE deployments SET revision = 'r1', next_revision = 'r2' WHERE id = %s", wanted)
    run_until([house], lambda: rows.count("state = 'standing_by'") == 1, "the next revision stands by")
    assert rows.query("SELECT lease_id FROM replicas WHERE state = 'standing_by'") == [(None,)]
    assert rows.count("state = 'ready'") == 1
    rows.query("UPDATE deployments SET next_revision = NULL WHERE id = %s", wanted)
    run_until([house], lambda: rows.count("state = 'stopped'") == 1, "a swap that was given up ends it")
    rows.query("UPDATE deployments SET next_revision = 'r2' WHERE id = %s", wanted)
    run_until([house], lambda: rows.count("state = 'standing_by'") == 1, "the next revision stands by again")
    rows.query("UPDATE deployments SET revision = 'r2', next_revision = NULL WHERE id = %s", wanted)
    run_until(
        [house], lambda: sorted(rows.states()) == ["ready", "stopped", "stopped"], "it serves, and the old one is gone"
    )
    assert rows.query("SELECT revision FROM replicas WHERE state = 'ready'") == [("r2",)]


def test_two_hosts_share_and_one_takes_all_when_the_other_ends(work, rows, open_house) -> None:
    one, two = open_house("one"), open_house("two")
    want(work.ctx, number=2)
    run_until([one, two], lambda: rows.count("state = 'ready'") == 2, "both are ready")
    assert len(one.pids()) == len(two.pids()) == 1
    two.stop()
    run_until([one], lambda: rows.count("state = 'ready' AND host = 'one'") == 2, "one has both")


def test_a_second_keeper_of_a_host_takes_over_and_the_first_ends(work, rows, open_house) -> None:
    first = open_house("one")
    want(work.ctx)
    run_until([first], lambda: rows.count("state = 'ready'") == 1, "it is ready")
    second = open_house("one")
    with pytest.raises(StartError, match="Another keeper has taken over the host one"):
        run_until([first], lambda: False, "the first ends", 30)
    run_until([second], lambda: rows.count("state = 'ready'") == 1, "the second has it")
    run_until([second], lambda: rows.states()[-1] == "ready" and len(second.pids()) == 1, "and a process for it")


def test_without_the_database_the_processes_go_on(work, rows, open_house, database_proxy, settings) -> None:
    proxy, address = database_proxy
    house = open_house(database_url=address)
    want(work.ctx)
    run_until([house], lambda: rows.count("state = 'ready'") == 1, "it is ready")
    pids = house.pids()
    proxy.cut()
    for _ in range(60):
        house.step()
    assert house.pids() == pids
    proxy.mend()
    job = work.submit("after all")
    run_until([house], lambda: work.state(job).value == "succeeded", "it answers again")
    assert house.pids() == pids


def test_a_lost_lease_is_followed_by_a_new_row_of_the_same_process(work, rows, open_house) -> None:
    house = open_house()
    want(work.ctx)
    run_until([house], lambda: rows.count("state = 'ready'") == 1, "it is ready")
    pids = house.pids()

    def take_for_dead() -> bool:
        rows.query("UPDATE leases SET heartbeat_at = now() - interval '1 hour'")
        verbs.reap(work.ctx)
        return rows.states()[0] == "failed"

    run_until([house], take_for_dead, "it was taken for dead")
    run_until([house], lambda: rows.count("state = 'ready'") == 1, "it goes on")
    for _ in range(60):
        house.step()
    assert house.pids() == pids
    assert rows.count("ended_at IS NULL") == 1
