"""The database's clock set back by ten minutes, which is the same as every stored time set ahead by them."""

from __future__ import annotations

from batchinfer.services import upkeep, work


def set_back(bench) -> None:
    bench.run("UPDATE queue SET available_at = available_at + interval '10 minutes'")
    bench.run("UPDATE leases SET heartbeat_at = heartbeat_at + interval '10 minutes'")
    bench.run("UPDATE ticks SET ticked_at = ticked_at + interval '10 minutes'")


def test_what_was_due_is_due(bench, context) -> None:
    ids = bench.put(3)
    upkeep.tick(context)
    set_back(bench)
    lease_id = bench.open()
    assert bench.claim(lease_id) == []
    work.reap(context)
    assert {claim.id for claim in bench.claim(lease_id)} == set(ids)


def test_a_lost_worker_is_noticed_after_the_lease_time(bench, context) -> None:
    (job_id,) = bench.put()
    lease_id = bench.open()
    bench.claim(lease_id)
    upkeep.tick(context)
    set_back(bench)
    assert work.reap(context) == 0  # its time begins anew: nothing is reaped early
    bench.run(
        "UPDATE leases SET heartbeat_at = heartbeat_at - make_interval(secs => :ago_s)",
        ago_s=context.settings.lease_ttl_s + 1,
    )
    assert work.reap(context) == 1
    assert bench.row("queue", id=job_id).state == "queued"


def test_waits_are_left_alone_while_the_clock_goes_on(bench, context) -> None:
    bench.put()
    bench.run("UPDATE queue SET available_at = now() + interval '40 seconds'")
    lease_id = bench.open()
    upkeep.tick(context)
    work.reap(context)
    assert bench.claim(lease_id) == []
