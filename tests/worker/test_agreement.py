"""`engine: auto` on CUDA: the vLLM that it would take (a stand-in) is held to the golden prompts of its deployment, in
the process that loads; where it does not agree, ours serves, and the replica's row says why."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.domain.deployments import parse_deployment
from batchinfer.domain.goldens import parse_goldens
from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.limits import Limits
from batchinfer.services import deployments, models
from batchinfer.store.clean import as_jsonb
from workers import model as model_worker
from workers.agreement import GoldenAgreement
from workers.engine import loader
from workers.engine.fake import FakeEngine
from workers.engine.phases import Phases
from workers.insist import Stopped
from workers.loading import Plan
from workers.model import ModelDuty
from workers.pin import Pinned

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Caller, Context

ROOT = Path(__file__).resolve().parents[2]
DOCREADER = ROOT / "workers" / "models" / "docreader"
#: What the stand-in answers by, and what no engine says.
RIGHT = {"id": "right", "prompt": "a page", "expect": {"json": {"engine": "fake"}}}
WRONG = {"id": "iban", "prompt": "a page", "expect": {"contains": "DE02"}}


def execute(context: Context, statement: str, **values: Any) -> None:
    with context.db.transaction() as tx:
        tx.execute(text(statement), values)


def store(golden: list[dict[str, Any]], context: Context) -> list[dict[str, Any]]:
    return [one.as_stored() for one in parse_goldens(golden, Limits.of(context.settings))]


def place(context: Context, caller: Caller, golden: list[dict[str, Any]], swap: Any = None) -> UUID:
    """A replica that is planned, of a deployment with golden prompts."""
    models.register_model(context, "docreader", str(DOCREADER), "r1")
    spec = parse_deployment({"model": "docreader", "device": "cuda"})
    made, _ = deployments.launch(context, caller, spec)
    replica_id, wish = new_id(), made.deployment.id
    execute(
        context, "UPDATE deployments SET golden = CAST(:golden AS jsonb), swap = CAST(:swap AS jsonb) WHERE id = :id",
        golden=as_jsonb(store(golden, context)), swap=as_jsonb(swap), id=wish,
    )  # fmt: skip
    execute(
        context,
        "INSERT INTO replicas (id, tenant_id, deployment_id, host, worker, model, revision, device, state, wanted)"
        " VALUES (:id, :tenant, :wish, 'here', 'model0@here', 'docreader', 'r1', 'cuda:0', 'planned', :wanted)",
        id=replica_id, tenant=DEFAULT_TENANT, wish=wish, wanted="serve" if swap is None else "stand_by",
    )  # fmt: skip
    return replica_id


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A process that takes itself for one on a GPU, where ours is the fake one. Answers vLLM's options."""
    monkeypatch.setattr(loader, "open_engine", lambda _kind, model, /, **_: FakeEngine(model=model.name, slots=2))
    monkeypatch.setattr(model_worker, "pin", lambda *_asked: Pinned("cuda:0", 1))
    python = tmp_path / "python"
    architecture = json.loads((DOCREADER / "config.json").read_text())["architectures"][0]
    said = json.dumps(["0.32.0", [architecture]])
    python.write_text(f'#!/bin/sh\nif [ "$1" = -I ]; then echo \'{said}\'; else exec {sys.executable} "$@"; fi\n')
    python.chmod(0o755)
    paths = os.pathsep.join([str(ROOT / "tests" / "remote" / "standin"), str(ROOT)])
    environment = {"PYTHONPATH": paths, "STANDIN": "ready", "STANDIN_NOTES": str(tmp_path)}
    return {"python": str(python), "environment": environment, "log": str(tmp_path / "log"), "stop_s": 1.0}


def load(context: Context, replica_id: UUID, vllm: dict[str, Any]) -> dict[str, Any]:
    """Load as a keeper's process does, up to the lease, and answer what the replica's row then says."""
    options = {"vllm": vllm, "agrees": "not a user's to say"}
    plan = Plan("docreader", "cuda:0", "auto", 2, 1, options, replica=replica_id)
    duty = ModelDuty(context, "model0@here", plan)
    crew = duty.open()
    try:
        duty.note("ready")
    finally:
        if duty._orders is not None:
            duty._orders.stop()
            duty._orders.join(30)
        crew.station.close()
    statement = "SELECT state, engine, verdict, versions FROM replicas WHERE id = :id"
    with context.db.transaction() as tx:
        return dict(tx.execute(text(statement), {"id": replica_id}).one()._mapping)


def test_a_vllm_that_agrees_serves(context: Context, caller: Caller, on_cuda: dict[str, Any]) -> None:
    row = load(context, place(context, caller, [RIGHT]), on_cuda)
    assert (row["state"], row["engine"], row["verdict"]["choice"]["kind"]) == ("ready", "vllm", "vllm")
    assert "answered 1 of 1 golden prompts" in row["verdict"]["choice"]["reason"]
    assert row["versions"]["upstream"] == "0.32.0"


def test_one_that_does_not_agree_leaves_the_place_to_ours_in_the_same_start(
    context: Context, caller: Caller, on_cuda: dict[str, Any], tmp_path: Path, until: Callable[..., Any]
) -> None:
    row = load(context, place(context, caller, [RIGHT, WRONG]), on_cuda)
    reason = row["verdict"]["choice"]["reason"]
    assert (row["state"], row["engine"], row["verdict"]["choice"]["kind"]) == ("ready", "fake", "ours")
    assert "1 of 2 golden prompts" in reason
    assert "`iban`" in reason
    assert "torch" in row["versions"]
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not Path(f"/proc/{pid}").exists(), "the vLLM that was refused is gone")
    (shown,) = deployments.list_deployments(context, caller)[0].replicas
    assert (shown.verdict or {})["choice"]["reason"] == reason


def test_prompts_that_cannot_be_asked_speak_for_ours(context: Context, caller: Caller) -> None:
    replica_id = place(context, caller, [RIGHT])
    execute(context, """UPDATE deployments SET golden = '[{"name": "x"}]'""")
    agreement = ask(context, replica_id, threading.Event())
    assert (agreement.agreed, agreement.of, "prompt_unreadable" in agreement.fault) == (0, 1, True)


def ask(context: Context, replica_id: UUID, quit_: threading.Event) -> Any:
    engine = FakeEngine(slots=2)
    try:
        return GoldenAgreement(context, replica_id, quit_, Phases())(engine)
    finally:
        engine.close()


def test_a_process_that_is_told_to_end_asks_no_further(context: Context, caller: Caller) -> None:
    replica_id, quit_ = place(context, caller, [RIGHT]), threading.Event()
    quit_.set()
    with pytest.raises(Stopped):
        ask(context, replica_id, quit_)


def test_a_swap_asks_its_own_prompts_and_each_engine_once(context: Context, caller: Caller) -> None:
    golden = json.loads(json.dumps(store([RIGHT], context)))
    swap = {"state": "loading", "golden": golden}
    replica_id = place(context, caller, [WRONG], swap)
    goldens = GoldenAgreement(context, replica_id, threading.Event(), Phases())
    engine = FakeEngine(slots=2)
    try:
        assert goldens(engine).agreed == goldens(engine).of == 1
        report = goldens.check(engine, swap)
        assert report is not None
        assert report.passed
        assert engine.stats().ended == 1
        assert goldens.check(engine, {"state": "loading", "golden": []}) is None
    finally:
        engine.close()
