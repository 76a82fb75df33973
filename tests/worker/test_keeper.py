"""A keeper with real model processes on the fake engine: killed in each phase, cancelled, put to sleep, woken."""

from __future__ import annotations

import json
import os
import signal

import pytest

from batchinfer.errors import StartError
from batchinfer.services import hosts
from batchinfer.services import work as verbs
from tests.worker.houses import run_until, want


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


#: What holds a load in a phase: a state that it cannot come to, or a phase of the engine that takes for ever.
LONG_S = 3600
PHASES = [
    pytest.param("planned", "loading", {}, marks=pytest.mark.long),
    ("read", "", {"read_s": LONG_S}),
    pytest.param("copy", "", {"copy_s": LONG_S}, marks=pytest.mark.long),
    pytest.param("warm_up", "", {"warm_up_s": LONG_S}, marks=pytest.mark.long),
    pytest.param("verifying", "ready", {}, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("phase", "following", "options"), PHASES)
def test_killed_before_it_is_ready_it_is_tried_again(work, rows, open_house, hold, phase, following, options) -> None:
    hold(following)
    house = open_house()
    wanted = want(work.ctx)
    rows.query("UPDATE deployments SET options = %s", json.dumps(options))
    state = "loading" if options else phase
    (pid,) = run_until([house], lambda: rows.states() == [state] and house.pids(), f"it is {state}")
    if options:
        run_until([house], lambda: f'"phase": "{phase}"' in rows.read_log(), f"it is in {phase}")
    elif phase == "verifying":
        run_until([house], lambda: rows.query("SELECT 1 FROM leases WHERE pid = %s", pid), "it wants to be ready")
    assert rows.states() == [state]
    os.kill(pid, signal.SIGKILL)
    run_until([house], lambda: rows.states()[0] == "failed", "its end is known")
    # Its keeper saw it and said so; nobody waited for a silence to grow long enough.
    ((code, message),) = rows.query("SELECT error ->> 'code', error ->> 'message' FROM replicas ORDER BY id LIMIT 1")
    assert (code, "killed by signal 9" in message) == ("worker_lost", True)
    assert rows.query("SELECT actor FROM events WHERE event = 'failed'") == [("keeper one",)]
    assert rows.query("SELECT count(*) FROM leases WHERE NOT dead") == [(0,)]
    ((failures, next_try_at),) = rows.query("SELECT failures, next_try_at FROM deployments")
    assert failures == 1
    rows.query("UPDATE deployments SET options = '{}' WHERE id = %s", wanted)
    hold.release()
    run_until([house], lambda: rows.count("state = 'ready'") == 1, "it is ready all the same")
    assert rows.query("SELECT failures, next_try_at FROM deployments") == [(0, None)]
    assert rows.query("SELECT created_at >= %s FROM replicas WHERE state = 'ready'", next_try_at) == [(True,)]
    assert pid not in house.pids()


def test_killed_while_it_drains_its_job_goes_to_the_next(work, rows, open_house) -> None:
    house = open_house(drain_s=600.0)
    wanted = want(work.ctx)
    rows.query("UPDATE deployments SET options = %s", json.dumps({"steps_per_s": 1}))
    run_until([house], lambda: rows.count("state = 'ready'") == 1, "it is ready")
    job = work.submit("[[steps:500]]", max_tokens=500)
    run_until([house], lambda: work.state(job).value == "running", "it works")
    rows.query("UPDATE deployments SET options = '{}' WHERE id = %s", wanted)
    ((replica_id, worker),) = rows.query("SELECT id, worker FROM replicas")
    hosts.drain_replica(work.ctx, work.caller, replica_id)
    run_until([house], lambda: rows.states()[0] == "draining", "it drains")
    os.kill(house.find_pid(worker), signal.SIGKILL)
    run_until([house], lambda: rows.states()[0] == "stopped", "its end is known")
    run_until([house], lambda: work.state(job).value == "succeeded", "the next one answers")
    assert work.outcomes(job) == ["lost", "succeeded"]
    assert rows.states() == ["stopped", "ready"]
    assert rows.query("SELECT failures, next_try_at FROM deployments") == [(0, None)]


def test_a_state_that_could_not_be_written_is_written_later(work, rows, open_house, hold) -> None:
    hold("ready")
    house = open_house()
    want(work.ctx)
    run_until([house], lambda: rows.query("SELECT 1 FROM leases"), "it works")
    assert rows.states() == ["verifying"]
    hold.release()
    run_until([house], lambda: rows.states() == ["ready"], "its row says so")


@pytest.mark.parametrize(("phase", "following"), [
    ("planned", "loading"), pytest.param("loading", "verifying", marks=pytest.mark.long)])  # fmt: skip
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
