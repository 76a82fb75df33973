"""End to end with results committed: what share of the engine's ceiling is left, and what a job costs in the worker."""

from __future__ import annotations

import resource
import threading
import time
from typing import Any

from bench.queue.stand import Stand, make_bodies
from workers.engine.fake import FakeEngine
from workers.engine.protocol import Request

#: Slots, steps of a job and steps a second: 100 ms a job, so 2,560 jobs a second at most.
SLOTS, STEPS, STEPS_PER_S = 256, 4, 40.0
NOMINAL = SLOTS * STEPS_PER_S / STEPS
_RATE = """
    SELECT 0.9 * count(*) / extract(epoch FROM percentile_disc(0.95) WITHIN GROUP (ORDER BY created_at)
                                             - percentile_disc(0.05) WITHIN GROUP (ORDER BY created_at))
    FROM results"""


def measure_drain(stand: Stand, *, jobs: int) -> dict[str, Any]:
    """Jobs a second between the 5th and the 95th percent of results, and CPU microseconds a job.

    The engine's own CPU, taken in this process with the same requests and no queue, is given apart.
    """
    alone = _run_engine_alone(min(jobs, 10_000))
    stand.submit_bulk(make_bodies(jobs, STEPS))
    worker = stand.start_worker(slots=SLOTS, steps_per_s=STEPS_PER_S)
    began_s, began = worker.cpu_s(), time.monotonic()
    stand.wait(lambda: stand.run("SELECT NOT EXISTS (SELECT 1 FROM queue)"), "the end of the backlog")
    seconds, cpu_s = time.monotonic() - began, worker.cpu_s() - began_s
    rate = float(stand.run(_RATE))
    twice = int(stand.run("SELECT count(*) FROM attempts WHERE outcome <> 'succeeded'"))
    worker.stop()
    per_job_us = 1e6 * cpu_s / jobs
    return {
        "jobs": jobs,
        "slots": SLOTS,
        "nominal_per_s": NOMINAL,
        "engine_alone_per_s": round(alone["per_s"], 1),
        "jobs_per_s": round(rate, 1),
        "seconds": round(seconds, 2),
        "share_of_nominal": round(rate / NOMINAL, 3),
        "share_of_engine_alone": round(rate / alone["per_s"], 3),
        "worker_cpu_us": round(per_job_us, 1),
        "engine_cpu_us": round(alone["cpu_us"], 1),
        "queue_cpu_us": round(per_job_us - alone["cpu_us"], 1),
        "other_attempts": twice,
    }


def _run_engine_alone(count: int) -> dict[str, float]:
    requests = [
        Request(str(number), ({"role": "user", "content": [{"type": "text", "text": body}]},))
        for number, body in enumerate(make_bodies(count, STEPS))
    ]
    engine, places = FakeEngine(slots=SLOTS, steps_per_s=STEPS_PER_S), threading.Semaphore(2 * SLOTS)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for request in requests:
        places.acquire()
        engine.submit(request, on_done=lambda _: places.release())
    for _ in range(2 * SLOTS):
        places.acquire()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    engine.close()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"per_s": count / seconds, "cpu_us": 1e6 * cpu_s / count}
