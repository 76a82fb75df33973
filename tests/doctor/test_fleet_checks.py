"""Checks of models, workers and plans, on a real Postgres, well and broken on purpose."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from batchinfer.doctor import fleet_checks
from batchinfer.doctor.everything import examine_all
from batchinfer.doctor.findings import Level, Look
from batchinfer.doctor.latest import Latest
from batchinfer.errors import Unavailable
from batchinfer.store import leases, server_facts
from tests.doctor.conftest import MEMINFO

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchinfer.services.context import Context

OK, WARNING, ERROR, SKIPPED = Level.OK, Level.WARNING, Level.ERROR, Level.SKIPPED


@pytest.fixture
def look(context: Context) -> Look:
    return Look.of_host(context.settings, context)


def test_a_model_that_could_not_be_loaded_is_told_with_its_error(look: Look, add_replica: Callable[..., None]) -> None:
    assert fleet_checks.check_models(look).level is WARNING  # none is known
    add_replica(state="failed", ready=False, error='{"message": "A shard is short."}')
    said = fleet_checks.check_models(look)
    assert said.level is ERROR
    assert "known could not be loaded. A shard is short." in said.message


def test_the_last_load_of_each_model_is_told(look: Look, add_replica: Callable[..., None]) -> None:
    add_replica()
    said = fleet_checks.check_models(look)
    assert said.level is OK
    assert "known in 5 s" in said.message
    add_replica(worker="v@here", state="failed", ready=False, error='{"message": "No room."}', age_s=1)
    said = fleet_checks.check_models(look)
    assert said.level is WARNING
    assert "The last load of known failed; an earlier one serves. No room." in said.message


def test_a_replica_that_served_and_was_lost_is_no_failed_load(look: Look, add_replica: Callable[..., None]) -> None:
    add_replica()
    add_replica(worker="v@here", state="failed", ready=True, age_s=30)
    assert fleet_checks.check_models(look).level is OK


def test_workers_that_are_not_there_and_those_that_pause_are_told(look: Look, context: Context) -> None:
    assert "No worker is there" in fleet_checks.check_workers(look).message
    with context.db.transaction() as tx:
        lease_id = leases.open_lease(tx, role="model", worker="m@here", host="here", pid=1, info={"paused": None})
    assert fleet_checks.check_workers(look).level is OK
    with context.db.transaction() as tx:
        leases.beat(tx, lease_id, {"paused": "memory pressure"})
    said = fleet_checks.check_workers(look)
    assert said.level is WARNING
    assert "m@here is paused: memory pressure" in said.message
    with context.db.transaction() as tx:
        tx.execute(text("UPDATE leases SET heartbeat_at = now() - interval '1 hour'"))
    assert "shows no sign of life" in fleet_checks.check_workers(look).message


def test_memory_is_held_against_the_plans(look: Look, add_replica: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(MEMINFO.format(total=0, free=0))
    group = tmp_path / "sys/fs/cgroup/memory.max"
    group.parent.mkdir(parents=True)
    look = replace(look, root=tmp_path)
    assert fleet_checks.check_plan(look).level is SKIPPED
    host = look.settings.machine_name
    add_replica(host=host, planned_mib=6000)
    add_replica(worker="x@elsewhere", host="elsewhere", planned_mib=10**6)
    levels = {}
    for limit in (None, 16_000, 6500, 4000):
        group.write_text("max" if limit is None else str(limit << 20))
        levels[limit] = fleet_checks.check_plan(look).level
    assert levels == {None: OK, 16_000: OK, 6500: WARNING, 4000: ERROR}


def test_postgres_is_asked_once_a_run(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    ask = server_facts.read_facts
    monkeypatch.setattr("batchinfer.doctor.service_checks.read_facts", lambda tx: asked.append(tx) or ask(tx))
    assert {finding.check for finding in examine_all(look)} >= {
        "Postgres",
        "durability",
        "connections",
        "schema",
        "clock",
    }
    assert len(asked) == 1
    list(examine_all(look))
    assert len(asked) == 2


def test_a_postgres_that_is_away_is_asked_once_a_run(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuse(tx: object) -> None:
        asked.append(tx)
        raise Unavailable("The database does not answer.")

    monkeypatch.setattr("batchinfer.doctor.service_checks.read_facts", refuse)
    found = {finding.check: finding for finding in examine_all(look)}
    assert len(asked) == 1
    assert found["Postgres"].level is found["clock"].level is ERROR
    assert found["clock"].message == "The database does not answer."


def test_what_was_found_last_is_kept_for_pages(look: Look) -> None:
    latest = Latest(lambda: look)
    assert latest.find_worst() is None
    latest.look()
    worst = latest.find_worst()
    assert worst is not None
    assert worst.level in {WARNING, ERROR}

    def burst() -> Look:
        raise RuntimeError("no")

    broken = Latest(burst)
    broken.look()
    assert broken.find_worst() is None
    latest.note([])
    assert latest.find_worst() is None
