"""Wishes in Postgres become planned replicas, drains and reasons; failures put off loads; moves are guarded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from batchinfer.domain.replicas import BREAKER_FAILURES, LONGEST_PAUSE_S, MOVES, ReplicaState
from batchinfer.domain.swaps import SwapRequest
from batchinfer.services import deployments, models, placing, replicas, swapping, upkeep, work
from batchinfer.services.replicas import News
from batchinfer.store import revisions
from batchinfer.store.hosts import Device

if TYPE_CHECKING:
    from batchinfer.domain.placing_facts import Placement

S = ReplicaState


@dataclass(frozen=True)
class Parts:
    """An estimate."""

    total_mib: int
    weights_mib: int = 1

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Fleet:
    """Deployments, hosts and replicas, moved by hand."""

    def __init__(self, bench: Any, need_mib: int | None = None) -> None:
        self.bench, self.ctx, self.need_mib = bench, bench.ctx, need_mib
        self.keepers: dict[str, UUID] = {}

    def open(self, host: str = "one", total_mib: int | None = None, **labels: str) -> None:
        self.keepers[host] = uuid4()
        replicas.open_host(self.ctx, host, self.keepers[host], [Device("cpu", "cpu", total_mib)], labels)

    def want(self, name: str = "reader", number: int = 1, **columns: Any) -> UUID:
        models.register_model(self.ctx, name, f"/models/{name}", "r1")
        found = models.ensure_deployment(self.ctx, name, engine="fake", device="cpu", replicas=number)
        for column, value in columns.items():
            self.bench.run(f"UPDATE deployments SET {column} = :value WHERE id = :id", value=value, id=found)  # noqa: S608
        return found

    def place(self) -> Placement | None:
        def estimate(_tx: Any, _deployment: Any) -> Parts | None:
            return None if self.need_mib is None else Parts(self.need_mib)

        return placing.reconcile(self.ctx, estimate)

    def live(self) -> list[Any]:
        return sorted((row for row in self.bench.rows("replicas") if row.ended_at is None), key=lambda row: row.id)

    def states(self) -> list[tuple[str, str, str]]:
        return [(row.worker, row.model, row.state) for row in self.live()]

    def move(self, replica_id: UUID, *states: ReplicaState, **news: Any) -> None:
        for state in states:
            assert replicas.move(self.ctx, replica_id, state, News(**news)) is not None, state

    def bring_up(self) -> None:
        for row in self.live():
            if row.state == "planned":
                self.move(row.id, S.LOADING, S.VERIFYING, S.READY)

    def deployment(self, deployment_id: UUID) -> Any:
        return self.bench.row("deployments", id=deployment_id)

    def events(self, subject_id: UUID) -> list[str]:
        rows = sorted(self.bench.rows("events", subject_id=subject_id), key=lambda row: row.id)
        return [row.event for row in rows]


@pytest.fixture
def fleet(bench: Any) -> Fleet:
    return Fleet(bench)


def test_what_is_wanted_is_planned_once_whoever_looks(fleet) -> None:
    wanted = fleet.want("a", 2)
    assert fleet.place() is None, "no host, nothing to do"
    fleet.open()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fleet.place(), range(8)))
    upkeep.tick(fleet.ctx)
    assert fleet.states() == [("model0@one", "a", "planned"), ("model1@one", "a", "planned")]
    (first, _) = fleet.live()
    assert (first.deployment_id, first.host, first.revision, first.device) == (wanted, "one", "r1", "cpu")
    assert fleet.events(first.id) == ["planned"]
    fleet.bring_up()
    assert not fleet.place()


def test_the_estimate_and_what_was_measured_bind(bench) -> None:
    fleet = Fleet(bench, need_mib=600)
    fleet.open(total_mib=1000)
    fleet.want("a")
    other = fleet.want("b")
    fleet.place()
    (row,) = fleet.live()
    assert (row.planned_mib, row.plan) == (600, {"total_mib": 600, "weights_mib": 1})
    error = fleet.deployment(other).error
    assert error["code"] == "no_room"
    assert error["message"] == (
        "b needs 600 MiB, and the most that is free are 400 MiB on one/cpu. Stop a, or shrink b by 200 MiB: fewer "
        "slots, or a quantisation."
    )
    assert fleet.events(other) == ["unplaced"]
    assert not fleet.place()
    fleet.move(row.id, S.LOADING, S.VERIFYING)
    fleet.move(row.id, S.READY, memory_mib=300)
    fleet.place()
    assert [state[1] for state in fleet.states()] == ["a", "b"]
    assert fleet.deployment(other).error is None
    fleet.bench.run("UPDATE deployments SET memory_mib = 5000 WHERE id = :id", id=fleet.want("c"))
    fleet.place()
    assert len(fleet.live()) == 2, "the budget of a deployment counts as its need"


def test_a_swap_without_room_waits_and_if_the_old_one_goes_first_a_failure_brings_it_back(bench) -> None:
    fleet = Fleet(bench, need_mib=600)
    fleet.open(total_mib=1000)
    one = fleet.want("a")
    fleet.place()
    fleet.bring_up()
    with bench.ctx.db.transaction() as tx:
        revisions.save_revision(tx, "a", "r2", source={}, path="/r2", state="fetched")
    swapping.begin_swap(bench.ctx, bench.caller, one, SwapRequest("r2"))
    fleet.place()
    assert [(row.revision, row.state, row.wanted) for row in fleet.live()] == [("r1", "ready", "serve")]
    found = fleet.deployment(one)
    assert (found.error["code"], found.swap["state"], found.next_revision) == ("no_room", "loading", "r2")
    deployments.cancel_load(bench.ctx, bench.caller, one)

    swapping.begin_swap(bench.ctx, bench.caller, one, SwapRequest("r2", drain_first=True))
    fleet.place()
    ((old, wanted),) = [(row.id, row.wanted) for row in fleet.live()]
    assert wanted == "drain"
    fleet.move(old, S.DRAINING, S.STOPPED)
    fleet.place()
    (row,) = fleet.live()
    assert (row.revision, row.wanted) == ("r2", "stand_by")
    fleet.move(row.id, S.LOADING)
    fleet.move(row.id, S.FAILED, error={"code": "load_failed", "message": "No."})
    fleet.place()
    assert [(row.revision, row.wanted) for row in fleet.live()] == [("r1", "serve")]
    found = fleet.deployment(one)
    assert (found.swap["state"], found.swap["error"]["code"], found.failures) == ("failed", "load_failed", 0)


def test_a_load_that_fails_waits_longer_each_time_until_the_breaker_opens(fleet) -> None:
    fleet.open()
    wanted = fleet.want("a")
    error = {"code": "bad", "message": "It is bad."}
    pauses = []
    for _ in range(BREAKER_FAILURES + 1):
        fleet.bench.run("UPDATE deployments SET next_try_at = now()")
        fleet.place()
        (row,) = fleet.live()
        fleet.move(row.id, S.LOADING)
        fleet.move(row.id, S.FAILED, error=error)
        fleet.place()
        assert not fleet.live(), "it waits"
        pauses.append((fleet.deployment(wanted).next_try_at - fleet.bench.row("replicas", id=row.id).ended_at).seconds)
    assert pauses == [2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert (fleet.deployment(wanted).failures, fleet.deployment(wanted).error) == (6, error)
    assert fleet.events(wanted) == ["breaker_opened"]
    fleet.bench.run("UPDATE deployments SET next_try_at = now()")
    fleet.place()
    fleet.bring_up()
    found = fleet.deployment(wanted)
    assert (found.failures, found.next_try_at, found.error) == (0, None, None)


def test_only_allowed_moves_take_place_and_an_answer_may_be_lost(fleet) -> None:
    fleet.open()
    fleet.want("a")
    fleet.place()
    (row,) = fleet.live()
    assert replicas.move(fleet.ctx, row.id, S.READY) is None
    fleet.move(row.id, S.LOADING, S.LOADING, S.VERIFYING)
    fleet.move(row.id, S.READY, phases={"start": 1.5}, versions={"engine": "fake"})
    fleet.move(row.id, S.READY)
    found = fleet.bench.row("replicas", id=row.id)
    assert (found.phases, found.versions) == ({"start": 1.5}, {"engine": "fake"})
    assert found.ready_at is not None
    fleet.move(row.id, S.DRAINING, S.STOPPED)
    for state in MOVES:
        assert replicas.move(fleet.ctx, row.id, state) is None, "what has ended stays so"
    assert fleet.events(row.id) == ["planned", "loading", "verifying", "ready", "draining", "stopped"]


def test_a_stopped_deployment_drains_and_its_planned_ones_too(fleet) -> None:
    fleet.open()
    wanted = fleet.want("a", 2)
    fleet.place()
    fleet.move(fleet.live()[0].id, S.LOADING, S.VERIFYING, S.READY)
    fleet.bench.run("UPDATE deployments SET stopped_at = now() WHERE id = :id", id=wanted)
    fleet.place()
    assert [row.wanted for row in fleet.live()] == ["drain", "drain"]
    assert not fleet.place()
    for row in fleet.live():
        replicas.end_process(fleet.ctx, row.id, "one", 999_999, "exit status 0", wanted_end=True)
    assert {row.state for row in fleet.bench.rows("replicas")} == {"stopped"}
    assert fleet.deployment(wanted).failures == 0


def test_what_ends_while_it_loads_has_failed_and_what_ends_later_is_only_lost(fleet) -> None:
    fleet.open()
    wanted = fleet.want("a")
    fleet.place()
    (row,) = fleet.live()
    fleet.bring_up()
    lease = fleet.bench.open("model0@one", pid=4242)
    fleet.move(row.id, S.READY, lease_id=lease)
    replicas.end_process(fleet.ctx, row.id, "here", 4242, "killed by signal 9")
    found = fleet.bench.row("replicas", id=row.id)
    assert (found.state, found.error["code"]) == ("failed", "worker_lost")
    assert fleet.bench.row("leases", id=lease).dead
    assert fleet.deployment(wanted).failures == 0
    fleet.place()
    (again,) = fleet.live()
    assert again.worker == "model0@one"
    replicas.end_process(fleet.ctx, again.id, "here", 4343, "killed by signal 9")
    assert fleet.deployment(wanted).failures == 1


def test_idle_models_sleep_and_their_jobs_wake_them(fleet) -> None:
    fleet.open()
    wanted = fleet.want("reader", idle_s=60)
    fleet.place()
    fleet.bring_up()
    assert not fleet.place()
    fleet.bench.run("UPDATE replicas SET ready_at = now() - interval '2 minutes'")
    fleet.bench.run("UPDATE deployments SET last_used_at = now() - interval '2 minutes' WHERE id = :id", id=wanted)
    done = fleet.place()
    assert done is not None
    assert done.slept == (wanted,)
    assert (fleet.deployment(wanted).asleep, fleet.live()[0].wanted) == (True, "drain")
    replicas.end_process(fleet.ctx, fleet.live()[0].id, "one", 999_999, "exit status 0", wanted_end=True)
    assert not fleet.place()
    fleet.bench.put(1)
    fleet.place()
    assert not fleet.deployment(wanted).asleep
    assert [row.state for row in fleet.live()] == ["planned"]
    assert fleet.events(wanted) == ["asleep", "woken"]


def test_a_short_job_between_two_looks_counts_as_use(fleet) -> None:
    fleet.open()
    wanted = fleet.want("reader", idle_s=120)
    fleet.place()
    fleet.bring_up()
    lease = fleet.bench.open()
    fleet.bench.put(1)
    fleet.bench.complete(lease, fleet.bench.claim(lease))
    fleet.bench.run("UPDATE replicas SET ready_at = now() - interval '3 minutes'")
    fleet.bench.run("UPDATE deployments SET last_used_at = now() - interval '3 minutes'")
    assert not fleet.place()
    assert not fleet.deployment(wanted).asleep


def test_hosts_that_fall_silent_or_end_lose_what_they_held(fleet) -> None:
    fleet.open("one")
    fleet.want("a")
    fleet.place()
    (row,) = fleet.live()
    fleet.move(row.id, S.LOADING)
    fleet.open("two")
    fleet.bench.run("UPDATE hosts SET heartbeat_at = now() - interval '1 hour' WHERE host = 'one'")
    fleet.place()
    assert fleet.states() == [("model0@two", "a", "planned")]
    assert fleet.bench.row("replicas", id=row.id).error["code"] == "worker_lost"
    fleet.bring_up()
    lease = fleet.bench.open("model0@two")
    fleet.move(fleet.live()[0].id, S.READY, lease_id=lease)
    fleet.bench.run("UPDATE hosts SET heartbeat_at = now() - interval '1 hour'")
    fleet.place()
    assert len(fleet.live()) == 1, "its lease lives: it answers"


def test_a_draining_host_gives_its_replicas_to_others(fleet) -> None:
    fleet.open("one")
    fleet.want("a")
    fleet.place()
    fleet.bring_up()
    fleet.open("two")
    assert not fleet.place(), "what serves is not moved without need"
    fleet.bench.run("UPDATE hosts SET draining = true WHERE host = 'one'")
    fleet.place()
    assert [(row.host, row.wanted) for row in fleet.live()] == [("one", "drain"), ("two", "serve")]


def test_a_keeper_that_takes_over_ends_what_was_left_without_blame(fleet) -> None:
    fleet.open("one")
    wanted = fleet.want("a", 2)
    fleet.place()
    first, second = fleet.live()
    fleet.move(first.id, S.LOADING, S.VERIFYING, S.READY)
    fleet.move(second.id, S.LOADING)
    lease = work.open_lease(fleet.ctx, role="model", worker="model0@one", host="one", pid=77, slots=8)
    fleet.move(first.id, S.READY, lease_id=lease)
    assert replicas.open_host(fleet.ctx, "one", uuid4(), [Device("cpu", "cpu")]) == [77]
    assert replicas.take_over(fleet.ctx, "one", [77]) == 2
    assert fleet.live() == []
    assert fleet.bench.row("leases", id=lease).dead
    assert fleet.deployment(wanted).failures == 0
    fleet.place()
    assert len(fleet.live()) == 2


def test_a_process_whose_lease_was_lost_goes_on_in_place_of_what_was_planned_for_it(fleet) -> None:
    fleet.open("one")
    fleet.want("a")
    fleet.place()
    (row,) = fleet.live()
    fleet.bring_up()
    lease = fleet.bench.open("model0@one", pid=5)
    fleet.move(row.id, S.READY, lease_id=lease)
    fleet.bench.run("UPDATE leases SET heartbeat_at = now() - interval '1 hour'")
    work.reap(fleet.ctx)
    assert fleet.bench.row("replicas", id=row.id).state == "failed"
    fleet.place()
    (planned,) = fleet.live()
    new = replicas.renew(fleet.ctx, row.id, fleet.bench.open("model0@one", pid=5))
    assert [(each.id, each.state, each.worker) for each in fleet.live()] == [(new, "ready", "model0@one")]
    assert fleet.bench.row("replicas", id=planned.id).state == "stopped"
    assert not fleet.place()
    assert replicas.renew(fleet.ctx, planned.id, uuid4()) is None


def test_orders_name_the_revisions_folder_and_the_deployments_wishes(fleet) -> None:
    fleet.open("one")
    fleet.want("a", slots=3, dtype="bfloat16", priority=2)
    fleet.place()
    models.register_model(fleet.ctx, "a", "/models/newer", "r2", {"new": True})
    (row,) = replicas.list_of_host(fleet.ctx, "one")
    assert (row.revision, row.path, row.slots, row.dtype, row.engine, row.priority) == (
        "r1", "/models/a", 3, "bfloat16", "fake", 2,
    )  # fmt: skip
    found = replicas.read_orders(fleet.ctx, row.id)
    assert found == row
    model = replicas.read_model(fleet.ctx, row)
    assert model is not None
    assert (model.revision, model.path, model.facts) == ("r1", "/models/a", {})
    assert replicas.read_orders(fleet.ctx, uuid4()) is None
