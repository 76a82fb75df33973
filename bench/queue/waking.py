"""How soon a job that arrives at an idle worker is claimed: with Redis, and with nobody there."""

from __future__ import annotations

import time
from typing import Any

from batchinfer.domain.jobs import JobClass
from bench.figures import percentile
from bench.queue.stand import MODEL, Stand, make_bodies

# The claim's time is the start of the successful attempt; both times are the database's.
_WAITED = """
    SELECT extract(epoch FROM a.started_at - j.created_at) * 1000 FROM attempts a JOIN jobs j ON j.id = a.job_id
    WHERE a.outcome = 'succeeded' AND j.id = ANY (CAST(:ids AS uuid[])) ORDER BY 1"""


def measure_waking(stand: Stand, *, jobs: int, poll_s: float = 1.0) -> dict[str, Any]:
    """Milliseconds from a job's insert to its claim; one job at a time, the worker idle before each."""
    worker = stand.start_worker(slots=8, steps_per_s=0.0, name="waking", poll_s=poll_s)
    with_redis = _run(stand, jobs, announce=True)
    without = _run(stand, max(4, jobs // 4), announce=False)
    worker.stop()
    return {"poll_s": poll_s, "announced": with_redis, "not_announced": without}


def _run(stand: Stand, count: int, *, announce: bool) -> dict[str, float]:
    ids = []
    for number, body in enumerate(make_bodies(count, 1, "waking" if announce else "polling")):
        # An odd pause, so that arrivals do not fall in step with the worker's polls.
        time.sleep(0.3 + 0.037 * (number % 11))
        ids += stand.submit_bulk([body])
        if announce:
            stand.ctx.announcer.announce(MODEL, JobClass.NORMAL, ids[-1:])
        stand.wait(lambda: stand.run("SELECT NOT EXISTS (SELECT 1 FROM queue)"), "the job's end", every_s=0.05)
    with stand.ctx.db.transaction() as tx:
        waited = [float(row[0]) for row in tx.exec_driver_sql(
            _WAITED.replace(":ids", "%(ids)s"), {"ids": [str(one) for one in ids]})]  # fmt: skip
    if len(waited) != count:
        raise RuntimeError(f"{count} jobs went in and {len(waited)} ended well.")
    return {"jobs": count, "p50_ms": round(percentile(waited, 50), 1), "p95_ms": round(percentile(waited, 95), 1),
            "max_ms": round(waited[-1], 1)}  # fmt: skip
