"""The two other ways measured: jobs a second, CPU a job, and what is lost or done twice when the worker is killed."""

from __future__ import annotations

import sys
import time
from typing import Any

import psycopg
from celery import Celery

from bench.queue.stand import Stand, Worker

WAYS = {
    "tasks": "one Celery task a job, acks_late, 64 threads, prefetch 1 (the way of Ray Serve's asynchronous inference)",
    "batches": "celery-batches, 256 a batch, acks_late, one thread",
}
_TASK = {"tasks": "contender.one", "batches": "contender.many"}
#: Connections to Postgres bound the threads; each thread has one, as a session a task has.
_POOL = {"tasks": ["-P", "threads", "-c", "64"], "batches": ["-P", "threads", "-c", "1"]}
_TABLE = "CREATE TABLE IF NOT EXISTS contender_results (job bigint NOT NULL, at timestamptz NOT NULL DEFAULT now())"
_RATE = """
    SELECT 0.9 * count(*) / extract(epoch FROM percentile_disc(0.95) WITHIN GROUP (ORDER BY at)
                                             - percentile_disc(0.05) WITHIN GROUP (ORDER BY at))
    FROM contender_results"""


class Contender:
    """One of the two, on the stand's servers, its jobs numbered from 0."""

    def __init__(self, stand: Stand, way: str) -> None:
        self.stand, self.way = stand, way
        self._redis = stand.settings.require_redis_url()
        self._database = stand.settings.require_database_url().replace("+psycopg", "", 1)
        with psycopg.connect(self._database, autocommit=True) as connection:
            connection.execute(_TABLE)
            connection.execute("TRUNCATE contender_results")
        stand.ctx.redis.flushdb()

    def start(self) -> Worker:
        """A worker of this way."""
        command = ["bench.queue.contender_app", "worker", "-n", f"{self.way}@here", "--without-gossip",
                   "--without-mingle", "-l", "WARNING", *_POOL[self.way]]  # fmt: skip
        return self.stand.start_celery(command, self.stand.settings, **self._environment())

    def publish(self, count: int, first: int = 0) -> float:
        """A message a job. Answers the seconds that it took."""
        began = time.perf_counter()
        with Celery("bench", broker=self._redis, set_as_current=False) as app, app.producer_pool.acquire() as producer:
            for number in range(first, first + count):
                app.send_task(_TASK[self.way], args=[number], producer=producer, ignore_result=True)
        return time.perf_counter() - began

    def count(self) -> int:
        """Results so far, those of a job done twice counted twice."""
        return int(self.stand.run("SELECT count(*) FROM contender_results"))

    def count_missing(self, jobs: int) -> int:
        """Jobs without a result."""
        return jobs - int(self.stand.run("SELECT count(DISTINCT job) FROM contender_results"))

    def _environment(self) -> dict[str, str]:
        return {"BENCH_WAY": self.way, "BENCH_REDIS": self._redis, "BENCH_DATABASE": self._database}


def measure_contender(stand: Stand, way: str, *, jobs: int, killed_jobs: int, wait_s: float) -> dict[str, Any]:
    """Its rate, then what a kill -9 in the middle costs, looked at `wait_s` after the new worker fell silent."""
    contender = Contender(stand, way)
    published_s = contender.publish(jobs)
    worker = contender.start()
    # CPU from the first result on: what starting costs is nobody's job.
    begun = stand.wait(contender.count, f"the first result of {way}", every_s=0.02)
    before_s = worker.cpu_s()
    stand.wait(lambda: contender.count() >= jobs, f"the end of {way}")
    cpu_s = worker.cpu_s() - before_s
    rate = float(stand.run(_RATE))
    worker.kill()
    return {
        "about": WAYS[way],
        "jobs": jobs,
        "jobs_per_s": round(rate, 1),
        "published_per_s": round(jobs / published_s, 1),
        "worker_cpu_us": round(1e6 * cpu_s / (jobs - begun), 1),
        "killed": _kill_in_the_middle(stand, way, killed_jobs, wait_s),
    }


def _kill_in_the_middle(stand: Stand, way: str, jobs: int, wait_s: float) -> dict[str, Any]:
    contender = Contender(stand, way)
    contender.publish(jobs)
    worker = contender.start()
    stand.wait(lambda: contender.count() >= jobs // 3, "a third of the jobs", every_s=0.02)
    worker.kill()
    at_kill = contender.count()
    second = contender.start()
    _wait_until_silent(contender, wait_s)
    second.kill()
    missing = contender.count_missing(jobs)
    return {
        "jobs": jobs,
        "done_at_kill": at_kill,
        "watched_s": wait_s,
        "without_result": missing,
        "done_twice": contender.count() - (jobs - missing),
    }


def _wait_until_silent(contender: Contender, wait_s: float) -> None:
    """Until no result came for `wait_s`."""
    seen, since = contender.count(), time.monotonic()
    while time.monotonic() - since < wait_s:
        time.sleep(0.5)
        if (now := contender.count()) != seen:
            seen, since = now, time.monotonic()
    sys.stderr.write(f"{contender.way}: silent for {wait_s:.0f} s\n")
