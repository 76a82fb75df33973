"""Weights are read ahead of a schedule's instant: of which models, on which hosts, once, and what is told of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batchinfer.domain.deployments import parse_deployment
from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.limits import Limits
from batchinfer.domain.runs import parse_spec
from batchinfer.domain.schedules import ScheduleState
from batchinfer.services import deployments, models, warming
from batchinfer.stack.warmer import Warmer
from batchinfer.store import schedules

DOCREADER = Path(__file__).resolve().parents[2] / "workers" / "models" / "docreader"


@pytest.fixture
def deployed(bench: Any) -> Any:
    """docreader, wanted on the CPU."""
    models.register_model(bench.ctx, "docreader", str(DOCREADER), "r1")
    return deployments.launch(bench.ctx, bench.caller, parse_deployment({"model": "docreader", "device": "cpu"}))[0]


def plan(bench: Any, minutes: float, **pipeline: Any) -> None:
    """A schedule that fires in so many minutes."""
    asked = {
        "source": {"urls": ["https://example.org/a.pdf"]}, "pipeline": {"prompt": "Read.", **pipeline},
    }  # fmt: skip
    assert parse_spec(asked, Limits.of(bench.ctx.settings)).pipeline.model == pipeline["model"]
    schedule_id, now = new_id(), datetime.now(UTC)
    with bench.ctx.db.transaction() as tx:
        schedules.insert_schedule(
            tx, schedule_id, bench.caller.tenant_id, name=str(schedule_id), key_id=None, declared=asked,
            state=ScheduleState.ENABLED, last_instant=now, next_at=now + timedelta(minutes=minutes),
        )  # fmt: skip


def place(bench: Any, wish: Any, host: str, state: str = "ready") -> None:
    replica_id = new_id()
    bench.run(
        "INSERT INTO replicas (id, tenant_id, deployment_id, host, worker, model, device, state)"
        " VALUES (:id, :tenant, :wish, :host, :host, 'docreader', 'cpu', :state)",
        id=replica_id, tenant=DEFAULT_TENANT, wish=wish.deployment.id, host=host, state=state,
    )  # fmt: skip
    if state == "stopped":
        bench.run("UPDATE replicas SET ended_at = now() WHERE id = :id", id=replica_id)


def due(bench: Any, host: str) -> list[str]:
    return [each.model for each in warming.list_warmable(bench.ctx, host)]


def test_the_host_that_held_it_last_warms_it_and_those_that_hold_it(bench: Any, deployed: Any) -> None:
    plan(bench, 5, model="docreader")
    plan(bench, 30, model="docreader")
    assert due(bench, "a") == [], "nobody ever held it"
    place(bench, deployed, "b", "stopped")
    place(bench, deployed, "a", "stopped")
    assert (due(bench, "a"), due(bench, "b")) == (["docreader"], [])
    place(bench, deployed, "b")
    assert (due(bench, "a"), due(bench, "b")) == ([], ["docreader"])
    deployments.stop(bench.ctx, bench.caller, deployed.deployment.id)
    assert due(bench, "b") == []


def test_models_of_a_ladder_are_needed_too(bench: Any, deployed: Any) -> None:
    place(bench, deployed, "a")
    plan(bench, 5, model="another", ladder=[{"temperature": 0.4}, {"model": "docreader"}])
    assert due(bench, "a") == ["docreader"]


def test_a_folder_is_read_once_an_instant_and_its_residency_is_told(bench: Any, deployed: Any) -> None:
    place(bench, deployed, "a")
    plan(bench, 5, model="docreader")
    keeper_id = new_id()
    warmer = Warmer(bench.ctx, "a", keeper_id)
    warmer.look()
    warmer.look()
    (event,) = bench.rows("events", subject="host", event="warmed")
    assert (event.subject_id, event.data["model"], event.data["revision"]) == (keeper_id, "docreader", "r1")
    assert event.data["total_bytes"] == sum(path.stat().st_size for path in DOCREADER.glob("*.safetensors"))
    assert event.data["resident_after"] is None or event.data["resident_after"] > 0.99
    bench.run("UPDATE models SET path = '/nowhere'")
    bench.run("UPDATE model_revisions SET path = '/nowhere'")
    warmer.look()
    told = bench.rows("events", subject="host", event="warmed")[-1]
    assert told.data["error"]
    warmer.close()
    bench.run("UPDATE schedules SET next_at = next_at + interval '1 minute'")
    warmer.look()
    assert len(bench.rows("events", subject="host", event="warmed")) == 2, "a keeper that ends reads no further"
