"""Model workers that are killed, frozen, stopped, hung and poisoned under load."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.services import jobs
from bench.chaos.calls import text_body
from bench.chaos.ledger import list_states
from workers.watchdog import EXIT_HUNG

if TYPE_CHECKING:
    from bench.chaos.cluster import Cluster
    from bench.chaos.members import Member

HELD = """SELECT count(*) FROM queue q JOIN leases l ON l.id = q.lease_id
    WHERE q.state = 'running' AND q.kind = 'infer' AND l.pid = %s"""
ALIVE = "SELECT count(*) FROM leases WHERE pid = %s AND NOT dead"
REPORTED = "SELECT count(*) FROM leases WHERE pid = ANY (%s::int[]) AND end_reason LIKE 'the process ended%%'"
LOST = "SELECT count(*) FROM attempts WHERE outcome = 'lost'"
SLOTS = 16


def long_job(number: int, key: str) -> dict[str, Any]:
    return text_body(f"[[steps:300]] {key}", key)


def wait_full(cluster: Cluster, member: Member) -> None:
    cluster.wait(lambda: member.alive and cluster.count(HELD, member.pid) >= SLOTS, "its slots are full")


def test_killed_with_full_slots(make_cluster: Any, send: Any, settle_clean: Any, full: bool) -> None:
    """kill -9, again and again. The supervisor says so, and nothing waits until the lease has run out.

    So many kills from outside meet a row that runs alone, sooner or later, and would be proof against it: here that
    takes more of them than there are.
    """
    cluster = make_cluster(max_crashes=100)
    cluster.start(models=2, slots=SLOTS, options='{"steps_per_s": 100}')
    rounds, lost_before = (20 if full else 3), cluster.count(LOST)
    loads, killed = [], []
    for round_ in range(rounds):
        member = cluster.members[f"model-{round_ % 2}"]
        # More than both workers together can hold.
        loads.append(send(cluster, 4 * SLOTS, make=long_job))
        wait_full(cluster, member)
        killed.append(member.pid)
        cluster.kill(member.name)
        member.wait()
        cluster.wait(lambda: cluster.count(HELD, killed[-1]) == 0, "its rows are given back")
    settle_clean(cluster, *loads, timeout_s=300)
    for load in loads:
        assert list_states(cluster, load.ids()) == {"succeeded": load.total}
    # Some of what was held ended in the moment between the look and the kill.
    assert cluster.count(LOST) - lost_before > SLOTS * rounds // 2
    # Each was ended because somebody saw the process end, none because its time ran out.
    assert cluster.count(REPORTED, killed) == rounds


@pytest.mark.long
def test_killed_with_its_supervisor(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """A host that vanishes: nobody says so, and the lease's time tells it."""
    cluster.reporting = False
    load = send(cluster, 150, make=long_job, rate_per_s=80)
    member = cluster.members["model-0"]
    wait_full(cluster, member)
    pid, killed_at = member.pid, time.monotonic()
    cluster.kill(member.name)
    member.wait()
    assert cluster.count(HELD, pid) >= SLOTS
    ((lease_id,),) = cluster.sql("SELECT id FROM leases WHERE pid = %s AND NOT dead", pid)
    cluster.wait(lambda: cluster.count(HELD, pid) == 0, "the lease runs out")
    # Three seconds and the next look; the rest is for a machine that has much else to do.
    assert time.monotonic() - killed_at < cluster.settings.lease_ttl_s + 60
    # That one: on a crowded machine it may have lost others before, and gone on with a new one.
    assert cluster.count("SELECT count(*) FROM leases WHERE id = %s AND end_reason = 'silent'", lease_id) == 1
    settle_clean(cluster, load)
    assert list_states(cluster, load.ids()) == {"succeeded": load.total}


def test_frozen_past_its_lease(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """SIGSTOP for twice the lease's time, SIGCONT: what it then has is refused by the database, or dropped by itself
    where its own clock or a beat told it first; and it works on as a new one."""
    useless_before = count_useless(cluster)
    lost_before = cluster.count_events("the lease was taken for dead; its work is dropped")
    loads, member = [], cluster.members["model-0"]
    for _ in range(8):
        loads.append(send(cluster, 4 * SLOTS, make=long_job))
        wait_busy(cluster, member.pid)
        member.send(signal.SIGSTOP)
        cluster.rest(2 * cluster.settings.lease_ttl_s)
        # Frozen inside a transaction it holds locks until the server ends that: ten seconds.
        cluster.wait(lambda: cluster.count(ALIVE, member.pid) == 0, "its lease is reaped")
        member.send(signal.SIGCONT)
        cluster.wait_ready()
        if count_useless(cluster) > useless_before:
            break
    settle_clean(cluster, *loads)
    for load in loads:
        assert list_states(cluster, load.ids()) == {"succeeded": load.total}
    assert count_useless(cluster) > useless_before, "it held nothing when it came back: the fault did not bite"
    assert cluster.count_events("the lease was taken for dead; its work is dropped") > lost_before
    assert member.ends == [] or member.alive


def wait_busy(cluster: Cluster, pid: int) -> None:
    cluster.wait(lambda: cluster.count(HELD, pid) >= SLOTS // 2, "it is at work")


def count_useless(cluster: Cluster) -> int:
    """Rows that workers still had when they were others': refused when they were written, or dropped before that."""
    fenced = cluster.count_events("results fenced out: cancelled, expired or taken over", "fenced")
    return fenced + cluster.count_events("the lease was taken for dead; its work is dropped", "rows")


def test_told_to_stop_under_load(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """SIGTERM: it ends in time with status 0, finishes what fits, and gives the rest back without a raised attempt."""

    def make(number: int, key: str) -> dict[str, Any]:
        return text_body(f"{'[[steps:100000]]' if number % 10 == 0 else ''} {key}", key, max_tokens=32_000)

    load = send(cluster, 60, make=make)
    member = cluster.members["model-0"]
    for_long = HELD + " AND q.leased_at < now() - interval '2 seconds'"
    cluster.wait(lambda: cluster.count(for_long, member.pid) >= 1 and load.done, "endless work runs")
    lost_before, ends = cluster.count(LOST), len(member.ends)
    told_at = time.monotonic()
    member.send(signal.SIGTERM)
    cluster.wait(lambda: len(member.ends) > ends, "it ends")
    assert member.ends[-1] == 0
    assert time.monotonic() - told_at < cluster.settings.drain_s + 60
    assert cluster.count(LOST) == lost_before
    tries = "attempt - crashes - released - CAST(state = 'running' AS int)"
    released = cluster.sql(f"SELECT {tries} FROM queue WHERE released > 0")  # noqa: S608 - constants
    assert released, "nothing was given back: the fault did not bite"
    assert set(released) == {(0,)}
    cancel_all(cluster)
    settle_clean(cluster, load)


def cancel_all(cluster: Cluster) -> None:
    """End what would run for ever, as its owner does."""
    for (job_id,) in cluster.sql("SELECT id FROM queue"):
        jobs.cancel_job(cluster.ctx, cluster.caller, job_id)


@pytest.mark.long
def test_poison_among_many(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """Jobs that end their process, three at once: they alone are set apart, and all others succeed."""
    poisons = {40, 120, 200}
    ends_before = sum(len(member.ends) for member in cluster.members.values())

    def make(number: int, key: str) -> dict[str, Any]:
        return text_body(f"{'[[crash]]' if number in poisons else '[[steps:10]]'} {key}", key)

    load = send(cluster, 256, make=make, threads=8)
    settle_clean(cluster, load, timeout_s=180)
    dead = [key for key, one in load.acks.items() if list_states(cluster, [one.id]) == {"quarantined": 1}]
    assert {int(key.rpartition("-")[2]) for key in dead} == poisons
    assert list_states(cluster, load.ids()) == {"succeeded": 253, "quarantined": 3}
    kills = sum(len(member.ends) for member in cluster.members.values()) - ends_before
    assert 3 <= kills <= 9
    after = send(cluster, 50)
    settle_clean(cluster, after)
    assert list_states(cluster, after.ids()) == {"succeeded": 50}


@pytest.mark.long
def test_hung_engine(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """A step that never returns: the watchdog ends the process, its rows are done by others."""
    options = '{"allow_faults": true, "steps_per_s": 100}'
    member = cluster.start_model("hanging", slots=SLOTS, options=options, watchdog_s=1.0)
    cluster.wait_ready()
    for name in ("model-0", "model-1"):  # the job that hangs must meet the one whose watchdog is quick
        cluster.members[name].send(signal.SIGSTOP)
    load = send(cluster, 30, make=lambda n, key: text_body(f"{'[[hang]]' if n == 7 else '[[steps:30]]'} {key}", key))
    cluster.wait(lambda: EXIT_HUNG in member.ends, "its watchdog ends it")
    settle_clean(cluster, load)
    assert list_states(cluster, load.ids()) == {"succeeded": 29, "quarantined": 1}
    cluster.remove("hanging")
    cluster.heal()


def test_a_job_that_does_not_fit(cluster: Cluster, send: Any, settle_clean: Any) -> None:
    """One that needs more memory than there is: tried again, then failed or done; who ran beside it is unharmed."""
    markers = {3: "[[transient:out_of_memory]]", 11: "[[once:out_of_memory]]"}

    def make(number: int, key: str) -> dict[str, Any]:
        return text_body(f"{markers.get(number, '[[steps:20]]')} {key}", key)

    load = send(cluster, 32, make=make)
    settle_clean(cluster, load)
    by_number = {int(key.rpartition("-")[2]): one.id for key, one in load.acks.items()}
    assert list_states(cluster, [by_number[3]]) == {"failed": 1}
    others = [job_id for number, job_id in by_number.items() if number != 3]
    assert list_states(cluster, others) == {"succeeded": 31}
    retries = "SELECT count(*) FROM attempts WHERE job_id = %s AND outcome = 'retry'"
    assert cluster.count(retries, by_number[3].removeprefix("job_")) >= 1
    assert cluster.count(retries, by_number[11].removeprefix("job_")) >= 1
    mates = "SELECT count(*) FROM attempts WHERE job_id = ANY (%s::uuid[]) AND outcome <> 'succeeded'"
    assert cluster.count(mates, [by_number[n].removeprefix("job_") for n in by_number if n not in markers]) == 0
