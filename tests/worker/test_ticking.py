"""The tick stands in for a beat that is gone."""

from __future__ import annotations

import threading

from batchinfer.services import upkeep
from workers.ticking import StandIn


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
