"""An operator's verbs for deployments, hosts and single replicas, on rows that no keeper touches."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.deployments import parse_deployment
from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.errors import Conflict, Forbidden, NotFound
from batchinfer.services import deployments, hosts, models
from batchinfer.services.context import Idempotency
from batchinfer.store import hosts as host_store
from batchinfer.store import revisions

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.deployments import Standing


def spec(**given: Any) -> Any:
    return parse_deployment({"model": "reader", **given})


def launch(bench: Any, **given: Any) -> Standing:
    return deployments.launch(bench.ctx, bench.caller, spec(**given))[0]


def place(bench: Any, standing: Standing, state: str, *, revision: str = "r1", **more: Any) -> UUID:
    """A replica as the placement writes it."""
    replica_id = new_id()
    values = {"wanted": "serve", "worker": f"w-{replica_id.hex[-6:]}", "host": "here", **more}
    bench.run(
        "INSERT INTO replicas (id, tenant_id, deployment_id, host, worker, model, revision, device, state, wanted)"
        " VALUES (:id, :tenant, :deployment, :host, :worker, 'reader', :revision, 'cpu', :state, :wanted)",
        id=replica_id, tenant=DEFAULT_TENANT, deployment=standing.deployment.id, revision=revision, state=state,
        **values,
    )  # fmt: skip
    return replica_id


def wanted(bench: Any) -> dict[UUID, str]:
    return {row.id: row.wanted for row in bench.rows("replicas")}


def events(bench: Any) -> list[str]:
    return [row.event for row in sorted(bench.rows("events", subject="deployment"), key=lambda row: row.id)]


def test_a_launch_stores_every_field_once_a_model_and_device(bench: Any) -> None:
    given = {
        "device": "cpu", "replicas": 2, "engine": "fake", "dtype": "float32", "quantisation": "int8", "slots": 4,
        "memory_mib": 512, "class": "batch", "pinned": True, "idle_s": "30m", "priority": 7, "labels": {"zone": "a"},
        "options": {"steps_per_s": 5},
    }  # fmt: skip
    made = launch(bench, **given).deployment
    assert (made.model, made.device, made.replicas, made.job_class, made.idle_s) == ("reader", "cpu", 2, "batch", 1800)
    assert (made.labels, made.options, made.priority, made.pinned) == ({"zone": "a"}, {"steps_per_s": 5}, 7, True)
    assert (made.dtype, made.quantisation, made.slots, made.memory_mib) == ("float32", "int8", 4, 512)
    assert (made.revision, made.own_revision) == ("r1", None)
    with pytest.raises(Conflict) as caught:
        launch(bench, device="cpu")
    assert caught.value.code == "deployment_exists"
    assert launch(bench, device="cuda").deployment.id != made.id
    (act,) = [row for row in bench.rows("audit", action="deployment.launch") if row.data["device"] == "cpu"]
    assert act.data["replicas"] == 2
    assert events(bench) == ["launched", "launched"]
    listed = deployments.list_deployments(bench.ctx, bench.caller)
    assert [(one.deployment.device, one.status) for one in listed] == [("cpu", "waiting"), ("cuda", "waiting")]


def test_what_cannot_be_launched(bench: Any) -> None:
    with pytest.raises(NotFound) as caught:
        deployments.launch(bench.ctx, bench.caller, parse_deployment({"model": "nobody"}))
    assert caught.value.code == "model_not_found"
    with pytest.raises(NotFound) as caught:
        launch(bench, revision="r9")
    assert caught.value.code == "revision_not_found"
    with bench.ctx.db.transaction() as tx:
        revisions.save_revision(tx, "reader", "r3", source={}, state="registered")
    with pytest.raises(Conflict) as refused:
        launch(bench, revision="r3")
    assert refused.value.code == "revision_not_fetched"
    reader = replace(bench.caller, scopes=frozenset({"read", "fetch", "admin"}))
    for act in (
        lambda: deployments.launch(bench.ctx, reader, spec()),
        lambda: deployments.ensure(bench.ctx, reader, spec()),
        lambda: deployments.stop(bench.ctx, reader, new_id()),
        lambda: deployments.resume(bench.ctx, reader, new_id()),
        lambda: deployments.cancel_load(bench.ctx, reader, new_id()),
        lambda: hosts.drain_host(bench.ctx, reader, "here"),
        lambda: hosts.drain_replica(bench.ctx, reader, new_id()),
    ):
        with pytest.raises(Forbidden, match="launch"):
            act()
    assert bench.rows("deployments") == []


def test_a_launch_with_a_key_is_replayed(bench: Any) -> None:
    key = Idempotency("POST", "/v1/deployments", "k", b"1" * 32)
    first = deployments.launch(bench.ctx, bench.caller, spec(), key)
    again = deployments.launch(bench.ctx, bench.caller, spec(), key)
    assert (first[1], again[1]) == (False, True)
    assert first[0].deployment.id == again[0].deployment.id


def test_ensure_twice_is_as_once_and_changes_only_what_is_said(bench: Any) -> None:
    made, done = deployments.ensure(bench.ctx, bench.caller, spec(replicas=2, slots=4))
    assert done == "launched"
    assert deployments.ensure(bench.ctx, bench.caller, spec(replicas=2))[1] == "unchanged"
    ready = place(bench, made, "ready")
    changed, done = deployments.ensure(bench.ctx, bench.caller, spec(replicas=1, priority=3))
    assert (done, changed.deployment.id) == ("changed", made.deployment.id)
    assert (changed.deployment.replicas, changed.deployment.slots, changed.deployment.priority) == (1, 4, 3)
    assert wanted(bench) == {ready: "serve"}
    # What a process was started with: it is replaced.
    deployments.ensure(bench.ctx, bench.caller, spec(slots=8))
    assert wanted(bench) == {ready: "drain"}
    assert deployments.ensure(bench.ctx, bench.caller, spec(revision="r1"))[1] == "unchanged"
    with pytest.raises(Conflict) as caught:
        deployments.ensure(bench.ctx, bench.caller, spec(revision="r2"))
    assert caught.value.code == "revision_differs"
    assert events(bench) == ["launched", "changed", "changed"]


def test_many_ensure_at_once_and_there_is_one(bench: Any) -> None:
    barrier, made = threading.Barrier(6), []

    def ensure(number: int) -> None:
        barrier.wait(30)
        made.append(deployments.ensure(bench.ctx, bench.caller, spec(replicas=number + 1)))

    threads = [threading.Thread(target=ensure, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 6
    assert sorted(done for _, done in made).count("launched") == 1
    assert len(bench.rows("deployments")) == 1


def test_a_stopped_deployment_drains_and_may_be_launched_again(bench: Any) -> None:
    made = launch(bench)
    ready, loading = place(bench, made, "ready"), place(bench, made, "loading")
    stopped = deployments.stop(bench.ctx, bench.caller, made.deployment.id)
    assert stopped.status == "stopped"
    assert wanted(bench) == {ready: "drain", loading: "drain"}
    assert deployments.stop(bench.ctx, bench.caller, made.deployment.id).status == "stopped"
    assert events(bench) == ["launched", "stopped"]
    with pytest.raises(Conflict) as caught:
        deployments.resume(bench.ctx, bench.caller, made.deployment.id)
    assert caught.value.code == "deployment_stopped"
    assert launch(bench).deployment.id != made.deployment.id
    with pytest.raises(NotFound) as missing:
        deployments.stop(bench.ctx, bench.caller, new_id())
    assert missing.value.code == "deployment_not_found"


def test_a_broken_deployment_is_tried_at_once(bench: Any) -> None:
    made = launch(bench)
    bench.run(
        "UPDATE deployments SET failures = 6, next_try_at = now() + interval '5 min', asleep = true,"
        """ error = '{"code": "out_of_memory", "message": "No."}'"""
    )
    assert deployments.get_deployment(bench.ctx, bench.caller, made.deployment.id).status == "asleep"
    resumed = deployments.resume(bench.ctx, bench.caller, made.deployment.id).deployment
    assert (resumed.failures, resumed.next_try_at, resumed.error, resumed.asleep) == (0, None, None, False)
    assert events(bench) == ["launched", "resumed"]
    deployments.resume(bench.ctx, bench.caller, made.deployment.id)
    assert events(bench) == ["launched", "resumed"]


def test_a_cancelled_load_leaves_what_is_ready(bench: Any) -> None:
    made = launch(bench, replicas=3)
    ready, loading, planned = (place(bench, made, state) for state in ("ready", "loading", "planned"))
    left = deployments.cancel_load(bench.ctx, bench.caller, made.deployment.id)
    assert left.deployment.replicas == 1
    assert wanted(bench) == {ready: "serve", loading: "drain", planned: "drain"}
    again = deployments.cancel_load(bench.ctx, bench.caller, made.deployment.id)
    assert again.deployment.replicas == 1
    assert events(bench) == ["launched", "load_cancelled"]
    other = launch(bench, device="cuda")
    bench.run("UPDATE deployments SET failures = 2 WHERE device = 'cuda'")
    assert deployments.cancel_load(bench.ctx, bench.caller, other.deployment.id).deployment.replicas == 0


def test_the_status_says_what_stands(bench: Any) -> None:
    made = launch(bench)
    place(bench, made, "loading")
    assert deployments.read_standing(bench.ctx, made.deployment.id).status == "loading"
    place(bench, made, "ready")
    assert deployments.read_standing(bench.ctx, made.deployment.id).status == "ready"
    bench.run("UPDATE replicas SET state = 'failed', ended_at = now()")
    bench.run("UPDATE deployments SET failures = 1")
    standing = deployments.read_standing(bench.ctx, made.deployment.id)
    assert (standing.status, len(standing.replicas)) == ("failed", 2)


def test_a_host_is_drained_and_taken_back(bench: Any) -> None:
    with bench.ctx.db.transaction() as tx:
        host_store.open_host(tx, "gpu-1", new_id(), [host_store.Device("cuda:0", "cuda", 80_000, "H100")])
    assert [(host.host, host.alive, host.draining) for host in hosts.list_hosts(bench.ctx, bench.caller)] == [
        ("gpu-1", True, False)
    ]
    assert hosts.drain_host(bench.ctx, bench.caller, "gpu-1").draining
    assert hosts.drain_host(bench.ctx, bench.caller, "gpu-1").draining
    assert not hosts.resume_host(bench.ctx, bench.caller, "gpu-1").draining
    with pytest.raises(NotFound) as caught:
        hosts.drain_host(bench.ctx, bench.caller, "gpu-2")
    assert caught.value.code == "host_not_found"
    told = hosts.list_events(bench.ctx, bench.caller).data
    assert [(one.event.subject, one.event.event) for one in told] == [("host", "resumed"), ("host", "draining")]
    assert [row.action for row in bench.rows("audit") if row.subject == "gpu-1"].count("host.drain") == 2


def test_one_replica_is_drained(bench: Any) -> None:
    made = launch(bench)
    kept, by_hand = place(bench, made, "ready"), place(bench, made, "ready", host=None)
    assert hosts.drain_replica(bench.ctx, bench.caller, kept).wanted == "drain"
    assert hosts.drain_replica(bench.ctx, bench.caller, kept).wanted == "drain"
    with pytest.raises(Conflict) as caught:
        hosts.drain_replica(bench.ctx, bench.caller, by_hand)
    assert caught.value.code == "replica_not_kept"
    with pytest.raises(NotFound) as missing:
        hosts.drain_replica(bench.ctx, bench.caller, new_id())
    assert missing.value.code == "replica_not_found"
    told = hosts.list_events(bench.ctx, bench.caller, subject="replica").data
    assert [one.event.event for one in told] == ["drain"]


def test_the_fleets_events_come_in_pages_and_hold_no_jobs(bench: Any) -> None:
    for device in ("cpu", "cuda", "cuda:1"):
        launch(bench, device=device)
    bench.run(
        "INSERT INTO events (id, tenant_id, subject, subject_id, event, data)"
        " VALUES (gen_random_uuid(), :tenant, 'job', gen_random_uuid(), 'cancelled', '{}')",
        tenant=DEFAULT_TENANT,
    )
    page = hosts.list_events(bench.ctx, bench.caller, limit=2)
    assert ([one.event.data["device"] for one in page.data], page.has_more) == (["cuda:1", "cuda"], True)
    rest = hosts.list_events(bench.ctx, bench.caller, after=page.data[-1].id)
    assert [one.event.data["device"] for one in rest.data] == ["cpu"]
    mine = hosts.list_events(bench.ctx, bench.caller, subject_id=rest.data[0].event.subject_id)
    assert len(mine.data) == 1


def test_what_up_wants_at_its_start_keeps_what_an_operator_said(bench: Any) -> None:
    launch(bench, device="cpu", slots=4, pinned=True)
    models.ensure_deployment(bench.ctx, "reader", device="cpu", engine="fake", replicas=2)
    (row,) = bench.rows("deployments")
    assert (row.engine, row.replicas, row.slots, row.pinned) == ("fake", 2, 4, True)
