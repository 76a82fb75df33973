"""The seconds of a start, from before the process's first line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from workers.engine.fake import FakeEngine
from workers.phases import Phases, find_versions, measure_age_s


def test_the_age_counts_from_the_process_s_start() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        started = time.monotonic()
        stat = Path(f"/proc/{process.pid}/stat")
        time.sleep(0.5)
        age_s = measure_age_s(stat)
        assert 0.3 <= age_s <= time.monotonic() - started + 1.0
        process.kill()
    assert measure_age_s() > 0


def test_parts_of_a_phase_stand_for_themselves() -> None:
    phases = Phases()
    phases.end("start")
    time.sleep(0.06)
    phases.end("read", {"copy": 0.02, "warm_up": 0.03})
    phases.end("verify")
    assert list(phases.seconds) == ["start", "copy", "warm_up", "read", "verify"]
    assert (phases.seconds["copy"], phases.seconds["warm_up"]) == (0.02, 0.03)
    assert phases.seconds["read"] >= 0.005
    assert phases.seconds["verify"] < phases.seconds["start"]


def test_versions_are_found_without_importing_anything() -> None:
    engine = FakeEngine(model="x")
    found = find_versions(engine)
    assert found["engine"] == "fake"
    assert {"batchinfer", "engine"} <= set(found)
    engine.close()
