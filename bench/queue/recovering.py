"""kill -9 of a worker with a full batch: how long until everything that it held has its result."""

from __future__ import annotations

import time
from typing import Any

from bench.queue.stand import Stand, make_bodies

_LEFT = "SELECT count(*) FROM queue"


def measure_recovery(stand: Stand, *, jobs: int, lease_ttl_s: float) -> dict[str, Any]:
    """Seconds from the kill to the last result, with a second worker there and nobody to report the death.

    A supervisor would report it at once; this is what a vanished host costs.
    """
    changes = {"lease_ttl_s": lease_ttl_s, "heartbeat_s": lease_ttl_s / 5, "reap_s": 1.0}
    first = stand.start_worker(slots=64, steps_per_s=8.0, name="first", **changes)
    ids = stand.submit_bulk(make_bodies(jobs, 400, "held"), announce=True)
    held = stand.wait(
        lambda: stand.run("SELECT count(*) FROM queue WHERE state = 'running'"), "the claim", every_s=0.05
    )
    second = stand.start_worker(slots=64, steps_per_s=0.0, name="second", **changes)
    first.kill()
    killed = time.monotonic()
    stand.wait(lambda: stand.run(_LEFT) == 0, "recovery", every_s=0.1)
    seconds = time.monotonic() - killed
    second.stop()
    results = stand.run("SELECT count(*) FROM results WHERE job_id = ANY (CAST(:ids AS uuid[]))", ids=ids)
    lost = stand.run("SELECT count(DISTINCT job_id) FROM attempts WHERE outcome = 'lost'")
    return {
        "jobs": jobs,
        "held_at_kill": held,
        "given_back": lost,
        "lease_ttl_s": lease_ttl_s,
        "seconds": round(seconds, 2),
        "results": results,
        "lost": jobs - results,
    }
