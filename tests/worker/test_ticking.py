"""The tick stands in for a beat that is gone."""

from __future__ import annotations

import threading

import pytest

from batchinfer.services import upkeep
from batchinfer.services import work as services
from workers.ticking import Reaper, StandIn

MODEL = "fake-model"


def test_a_cpu_worker_ticks_where_nobody_does(context, until) -> None:
    quit_ = threading.Event()
    stand_in = StandIn(context, quit_, take_over_s=0.3)
    stand_in.start()
    until(lambda: stand_in.ticks >= 2, "it ticks, and again when that was a while ago")
    quit_.set()
    stand_in.join(10)
    assert upkeep.seconds_since_tick(context) is not None


def test_it_leaves_a_living_beat_alone(context, until) -> None:
    quit_ = threading.Event()
    upkeep.tick(context)
    stand_in = StandIn(context, quit_, take_over_s=30.0)
    stand_in.start()
    assert not quit_.wait(1.5)
    quit_.set()
    stand_in.join(10)
    assert stand_in.ticks == 0


@pytest.mark.parametrize("lease_ttl_s", [4.0])  # it waits for the end of one
def test_any_worker_gives_back_what_a_silent_one_holds(settings, context, work, until) -> None:
    """No beat and no CPU worker: a model worker alone finds the dead lease."""
    lease_id = services.open_lease(context, role="model", worker="gone@there", host="there", pid=1, slots=1)
    job_id = work.submit("held")
    assert [
        claim.id for claim in services.claim(context, lease_id=lease_id, kinds=["infer"], model=MODEL, limit=1)
    ] == [job_id]
    quit_ = threading.Event()
    reaper = Reaper(context, quit_)
    reaper.start()
    until(lambda: reaper.reaped == 1, "the silent lease is ended")
    quit_.set()
    reaper.join(10)
    assert work.get(job_id).state == "queued"
    assert work.outcomes(job_id) == ["lost"]
