"""A folder that changes under a deployment: a shard short by one byte. What the rows say, from the check to the next
load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.domain.deployments import parse_deployment
from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.replicas import ReplicaState
from batchinfer.services import deployments, fetches, models, registry, replicas, work
from workers import model as model_worker
from workers.duty import StartFailed
from workers.loading import Plan
from workers.model import ModelDuty
from workers.pin import Pinned

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Caller, Context

DOCREADER = Path(__file__).resolve().parents[2] / "workers" / "models" / "docreader"


def place(context: Context, wish: UUID, *states: ReplicaState) -> UUID:
    """A replica of the deployment, moved through these states as its process does."""
    replica_id = new_id()
    with context.db.transaction() as tx:
        statement = """
            INSERT INTO replicas (id, tenant_id, deployment_id, host, worker, model, revision, device, state)
            VALUES (:id, :tenant, :wish, 'here', 'model0@here', 'reader', 'r1', 'cpu', 'planned')
        """
        tx.execute(text(statement), {"id": replica_id, "tenant": DEFAULT_TENANT, "wish": wish})
    for state in states:
        assert replicas.move(context, replica_id, state) is not None
    return replica_id


def check(context: Context, caller: Caller) -> Any:
    """The revision once a CPU worker has read its files again."""
    registry.verify(context, caller, "reader", "r1")
    lease_id = work.open_lease(context, role="cpu", worker="cpu-0@here", host="here", pid=1)
    (claim,) = work.claim(context, lease_id=lease_id, kinds=(work.FETCH,), model=None, limit=1)
    assert fetches.fetch_revision(context, claim, lambda action: action(), lambda: True)
    return registry.get_revision(context, caller, "reader", "r1")


def test_a_shard_short_by_one_byte_under_a_deployment_that_runs(
    context: Context, caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(DOCREADER, tmp_path / "reader"))
    models.register_model(context, "reader", str(folder), "r1")
    wish = deployments.launch(context, caller, parse_deployment({"model": "reader", "device": "cpu"}))[0].deployment.id
    assert (check(context, caller).state, check(context, caller).error) == ("fetched", None)
    loaded = (ReplicaState.LOADING, ReplicaState.VERIFYING, ReplicaState.READY)
    running = place(context, wish, *loaded)

    shard = next(folder.glob("*.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    failed = check(context, caller)
    assert (failed.state, failed.error["code"]) == ("failed", "model_changed")
    standing = deployments.get_deployment(context, caller, wish)
    assert standing.status == "ready", "what is loaded is as it was when it was loaded"

    replicas.end_process(context, running, "here", 1, "killed by signal 7")
    again = place(context, wish)
    monkeypatch.setattr(model_worker, "pin", lambda *_asked: Pinned("cpu", 1))
    duty = ModelDuty(context, "model0@here", Plan("reader", "cpu", "auto", 2, 1, {}, replica=again))
    with pytest.raises(StartFailed, match="weights_truncated"):
        duty.open()
    assert duty._orders is not None
    duty._orders.stop()
    standing = deployments.get_deployment(context, caller, wish)
    assert (standing.status, standing.deployment.failures) == ("failed", 1)
    assert (standing.deployment.error or {})["code"] == "weights_truncated"
    assert standing.deployment.next_try_at is not None
    assert {(one.id == again, one.state, (one.error or {})["code"]) for one in standing.replicas} == {
        (False, "failed", "worker_lost"),
        (True, "failed", "weights_truncated"),
    }

    shard.write_bytes(whole)
    place(context, wish, *loaded)
    standing = deployments.get_deployment(context, caller, wish)
    assert (standing.status, standing.deployment.failures, standing.deployment.error) == ("ready", 0, None)
