"""Launches held against rows: devices of hosts, what replicas hold, what earlier loads took."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import new_id
from batchinfer.errors import BadRequest, Conflict, Forbidden, NotFound
from batchinfer.media.weight_headers import read_model_facts
from batchinfer.services import memory, models
from batchinfer.services.memory import LaunchSpec
from batchinfer.store import deployments, hosts
from batchinfer.store.hosts import Device

DOCREADER = Path(__file__).resolve().parents[2] / "workers/models/docreader"
FACTS = read_model_facts(DOCREADER)
GPU = Device("cuda:0", "cuda", 8000, "small")


@pytest.fixture
def open_host(context):
    """A host that is alive, with devices."""

    def make(name, *devices):
        with context.db.transaction() as tx:
            hosts.open_host(tx, name, new_id(), devices)

    return make


@pytest.fixture
def reader(context):
    models.register_model(context, "reader", str(DOCREADER), "r1", FACTS)
    return "reader"


@pytest.fixture
def hold(context):
    """A replica's row on the host box."""

    def make(worker, mib, *, device="cpu", model="reader", state="ready", **more):
        values = {
            "id": new_id(), "worker": f"{worker}@box", "model": model, "device": device, "state": state, "mib": mib,
            "plan": json.dumps(more.pop("plan", None)), "host": more.pop("host", "box"),
            "memory": more.pop("memory_mib", None), "deployment": more.pop("deployment", None),
            "ended": more.pop("ended", False),
        }  # fmt: skip
        assert not more
        statement = """
            INSERT INTO replicas (id, tenant_id, worker, model, revision, device, state, host, plan, planned_mib,
                memory_mib, deployment_id, ready_at, ended_at)
            SELECT :id, tenant_id, :worker, :model, 'r1', :device, :state, :host,
                nullif(CAST(:plan AS jsonb), 'null'), :mib, :memory, :deployment, now(),
                CASE WHEN :ended THEN now() END
            FROM models WHERE name = :model
        """
        with context.db.transaction() as tx:
            tx.execute(text(statement), values)

    return make


def test_a_launch_beside_what_is_there(context, caller, reader, open_host, hold):
    open_host("box", Device("cpu", "cpu", 10_000, "EPYC"))
    hold("model0", 3000)
    hold("model1", None, host=None)  # by hand: planned here, as the workers' defaults are
    hold("model2", 4000, ended=True)
    found = memory.plan_launch(context, caller, reader, LaunchSpec())
    (device,) = found.devices
    assert (found.model, found.revision, found.fits) == ("reader", "r1", True)
    assert [(one.worker, one.mib) for one in device.held] == [("model0@box", 3000), ("model1@box", 1453)]
    assert device.free_mib == 10_000 - 1024 - 3000 - 1453
    assert found.plan.total_mib == 1453
    assert found.text.startswith("reader fits on cpu of box: it needs 1,453 MiB")
    memory.require_room(found)


def test_a_launch_that_fits_nowhere_is_refused_with_what_to_do(context, caller, reader, open_host, hold):
    open_host("box", Device("cpu", "cpu", 3000))
    hold("model0", 1600)
    found = memory.plan_launch(context, caller, reader, LaunchSpec("cpu"))
    assert found.fits is False
    with pytest.raises(Conflict, match="Stop model0@box") as refused:
        memory.require_room(found)
    assert refused.value.code == "no_memory"
    assert "1,077 MiB are missing." in refused.value.message


def test_a_pinned_deployment_is_not_to_be_stopped(context, caller, reader, open_host, hold):
    open_host("box", Device("cpu", "cpu", 3000))
    wanted = models.ensure_deployment(context, reader, device="cpu")
    with context.db.transaction() as tx:
        tx.execute(text("UPDATE deployments SET pinned = true"))
    hold("model0", 1600, deployment=wanted)
    (device,) = memory.plan_launch(context, caller, reader, LaunchSpec()).devices
    assert "stop" not in {one.action for one in device.advice}
    assert device.held[0].pinned


def test_what_was_measured_replaces_the_guess(context, caller, reader, open_host, hold):
    open_host("box", Device("cpu", "cpu", 20_000))
    guess = memory.plan_launch(context, caller, reader, LaunchSpec()).plan
    hold("model0", guess.total_mib, plan=guess.as_json(), memory_mib=guess.loaded_mib + 100)
    found = memory.plan_launch(context, caller, reader, LaunchSpec())
    assert (found.plan.measured, found.plan.loaded_mib) == (True, guess.loaded_mib + 100)
    assert found.plan.total_mib == guess.total_mib + 100
    assert found.devices[0].held[0].mib == guess.total_mib + 100
    # Of other slots, dtypes and devices nothing is known by that.
    for spec in (LaunchSpec(slots=4), LaunchSpec(dtype="bfloat16"), LaunchSpec("cuda")):
        assert not memory.plan_launch(context, caller, reader, spec).plan.measured
    # The plan that a worker makes for itself is the one that was made here.
    model = models.find_model(context, reader)
    assert memory.plan_worker(context, model, LaunchSpec("cpu", memory_mib=found.plan.total_mib)) == found.plan


def test_auto_takes_gpus_where_there_are_any(context, caller, reader, open_host):
    open_host("box", GPU, Device("cpu", "cpu", 20_000))
    open_host("other", Device("cpu", "cpu", 20_000))
    found = memory.plan_launch(context, caller, reader, LaunchSpec())
    assert [(one.host, one.device) for one in found.devices] == [("box", "cuda:0")]
    assert (found.plan.device_kind, found.plan.dtype) == ("cuda", "bfloat16")
    on_cpus = memory.plan_launch(context, caller, reader, LaunchSpec("cpu"))
    assert [one.host for one in on_cpus.devices] == ["box", "other"]


def test_hosts_that_are_silent_or_draining_take_nothing(context, caller, reader, open_host):
    open_host("gone", Device("cpu", "cpu", 20_000))
    open_host("draining", Device("cpu", "cpu", 20_000))
    with context.db.transaction() as tx:
        tx.execute(text("UPDATE hosts SET heartbeat_at = now() - interval '1 day' WHERE host = 'gone'"))
        hosts.set_draining(tx, "draining", draining=True)
    found = memory.plan_launch(context, caller, reader, LaunchSpec())
    assert (found.devices, found.fits) == ((), None)
    assert "no host that is alive has one" in found.text
    memory.require_room(found)  # nobody knows


def test_facts_come_from_the_folder_where_the_row_has_none(context, caller, open_host):
    models.register_model(context, "old", str(DOCREADER), "r1", {"weights_bytes": 1})
    assert memory.plan_launch(context, caller, "old", LaunchSpec()).plan.weights_mib == 23
    models.register_model(context, "away", "/nowhere/away", "r1", {})
    with pytest.raises(Conflict) as refused:
        memory.plan_launch(context, caller, "away", LaunchSpec())
    assert refused.value.code == "model_facts_unknown"
    with pytest.raises(NotFound):
        memory.plan_launch(context, caller, "nobody", LaunchSpec())
    with pytest.raises(NotFound):
        memory.plan_launch(context, caller, "old", LaunchSpec(), revision="other")
    with pytest.raises(BadRequest):
        memory.plan_launch(context, caller, "old", LaunchSpec(memory_mib=100))
    with pytest.raises(Forbidden):
        memory.plan_launch(context, replace(caller, scopes=frozenset({"submit"})), "old", LaunchSpec())


def test_placement_asks_for_a_deployments_plan(context, reader, open_host):
    models.ensure_deployment(context, reader, device="auto")
    with context.db.transaction() as tx:
        (wanted,) = deployments.list_wanted(tx)
        assert memory.estimate_replica(tx, wanted).device_kind == "cpu"
        assert memory.estimate_replica(tx, wanted, device_kind="cuda").device_kind == "cuda"
        sized = replace(wanted, slots=2, dtype="bfloat16", options={"context_tokens": 512})
        plan = memory.estimate_replica(tx, sized)
        assert (plan.slots, plan.context_tokens, plan.dtype) == (2, 512, "bfloat16")
        assert memory.estimate_replica(tx, replace(wanted, memory_mib=700)).total_mib <= 700
        assert memory.estimate_replica(tx, replace(wanted, memory_mib=7)) is None
        assert memory.estimate_replica(tx, replace(wanted, model="nobody")) is None
    open_host("box", GPU)
    with context.db.transaction() as tx:
        assert memory.estimate_replica(tx, wanted).device_kind == "cuda"


def test_what_is_free_of_a_device(context, reader, open_host, hold):
    open_host("box", GPU, Device("cpu", "cpu", None))
    hold("model0", 3000, device="cuda:0")
    hold("model1", 1000, device="cuda:0", state="planned")
    with context.db.transaction() as tx:
        assert memory.free_of_device(tx, "box", "cuda:0", silent_s=60) == 8000 - 256 - 4000
        assert memory.free_of_device(tx, "box", "cpu", silent_s=60) is None
        assert memory.free_of_device(tx, "nowhere", "cpu", silent_s=60) is None
