"""Two other ways on the same servers: one Celery task a job with `acks_late`, and `celery-batches`.

`BENCH_WAY` chooses, `BENCH_DATABASE` and `BENCH_REDIS` say where. A job takes 100 ms, as in our run; a result is a row
in Postgres, committed before the message is acknowledged.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import psycopg
from celery import Celery
from celery_batches import Batches, SimpleRequest

#: Seconds that a job takes, rows that celery-batches gathers and seconds that it waits for them.
SERVICE_S, GATHERED, GATHER_S = 0.1, 256, 0.1
_INSERT = "INSERT INTO contender_results (job) VALUES (%s)"
_local = threading.local()

app = Celery("contender", broker=os.environ["BENCH_REDIS"], set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    # Ray Serve's choice is 1; celery-batches can gather no more than is prefetched.
    worker_prefetch_multiplier=1 if os.environ["BENCH_WAY"] == "tasks" else 2 * GATHERED,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": int(os.environ.get("BENCH_VISIBILITY_S", "3600"))},
)


@app.task(name="contender.one")  # type: ignore[untyped-decorator]
def answer_one(job: int) -> None:
    """A thread waits for the engine's answer and commits it by itself."""
    time.sleep(SERVICE_S)
    _connect().execute(_INSERT, (job,))


@app.task(base=Batches, flush_every=GATHERED, flush_interval=GATHER_S, name="contender.many")  # type: ignore[untyped-decorator]
def answer_many(requests: list[SimpleRequest]) -> None:
    """A batch that closes when it is flushed: nobody joins before its end."""
    time.sleep(SERVICE_S)
    with _connect().transaction(), _connect().cursor() as cursor:
        cursor.executemany(_INSERT, [(request.args[0],) for request in requests])


def _connect() -> psycopg.Connection[Any]:
    if not hasattr(_local, "connection"):
        _local.connection = psycopg.connect(os.environ["BENCH_DATABASE"], autocommit=True)
    connection: psycopg.Connection[Any] = _local.connection
    return connection
