"""Submissions one by one and in bulk, as a share of bare COPY of the same rows into the same tables."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from batchinfer.services.jobs import submit
from bench.figures import Figure, ratios
from bench.queue.stand import MODEL, Stand, make_bodies, make_job, make_request

COPY = "bare COPY, 1,000 rows a commit"
ONE, MANY, BULK = "one by one, 1 thread", "one by one, 16 threads", "in bulk, 500 a transaction"


def measure_submission(stand: Stand, *, rows: int, singles: int, repeats: int) -> dict[str, Any]:
    """Rows a second of each way, the ways taking turns."""
    ways = {
        COPY: lambda: _copy(stand, rows),
        BULK: lambda: _bulk(stand, rows),
        ONE: lambda: _singly(stand, singles, 1),
        MANY: lambda: _singly(stand, singles * 4, 16),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            found[name].append(run())
            stand.run("TRUNCATE jobs, queue")
    rates = {name: Figure.of(values) for name, values in found.items()}
    return {"rates": {name: asdict(rate) for name, rate in rates.items()}, "ratios": ratios(rates, COPY)}


def _singly(stand: Stand, count: int, threads: int) -> float:
    requests = [make_request(body) for body in make_bodies(count, 4)]
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda request: submit(stand.ctx, stand.caller, request), requests):
            pass
    return count / (time.perf_counter() - began)


def _bulk(stand: Stand, count: int) -> float:
    bodies = make_bodies(count, 4)
    began = time.perf_counter()
    stand.submit_bulk(bodies)
    return count / (time.perf_counter() - began)


def _copy(stand: Stand, count: int) -> float:
    made = [make_job(body) for body in make_bodies(count, 4)]
    url = stand.settings.require_database_url().replace("+psycopg", "", 1)
    began = time.perf_counter()
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for first in range(0, count, 1000):
            part = made[first : first + 1000]
            with cursor.copy("COPY jobs (id, tenant_id, model, class, prompt) FROM STDIN") as copy:
                for job in part:
                    copy.write_row((job.id, job.tenant_id, MODEL, "normal", Jsonb(job.prompt)))
            with cursor.copy("COPY queue (id, kind, subject_id, tenant_id, model, class) FROM STDIN") as copy:
                for job in part:
                    copy.write_row((job.id, "infer", job.id, job.tenant_id, MODEL, "normal"))
            connection.commit()
    return count / (time.perf_counter() - began)
