"""/healthz while clients wait for a job, up to and past the threads that there are."""

from __future__ import annotations

import json
import threading
import time
from http.client import HTTPException
from typing import Any

from bench.api.uploading import post
from bench.api.web import Web, open_web
from bench.figures import percentile
from bench.queue.stand import MODEL, Stand

#: Asks again so long after it was answered at once.
_PAUSE_S = 1.0
#: What clients wait before the probing begins, and go on waiting after it.
_LEAD_S = 1.0


def measure_waiting(stand: Stand, *, seconds: float) -> dict[str, Any]:
    """How /healthz answers beside waiting clients: none, half of those that may, all, all threads, twice those."""
    threads = stand.settings.web_threads
    budget = threads // 4
    rows = []
    with open_web(stand) as web:
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "never"}]}).encode()
        job_id = post(web, web.connect(), "/v1/jobs", body, "application/json")["id"]
        for clients in (0, budget // 2, budget, threads, 2 * threads):
            path = f"/v1/jobs/{job_id}?wait={seconds + 2 * _LEAD_S:g}"
            rows.append({"clients": clients, **_run(web, path, clients, seconds)})
    return {"threads": threads, "budget": budget, "seconds": seconds, "rows": rows}


def _run(web: Web, path: str, clients: int, seconds: float) -> dict[str, Any]:
    over = threading.Event()
    waited: list[float] = []

    def wait() -> None:
        while not over.is_set():
            connection = web.connect()
            began = time.perf_counter()
            try:
                connection.request("GET", path, headers=web.headers)
                connection.getresponse().read()
                waited.append(time.perf_counter() - began)
            except (OSError, HTTPException):
                return
            finally:
                connection.close()
            over.wait(_PAUSE_S)

    pollers = [threading.Thread(target=wait, daemon=True) for _ in range(clients)]
    for poller in pollers:
        poller.start()
    time.sleep(_LEAD_S)
    probed, failed = _probe(web, seconds)
    over.set()
    for poller in pollers:
        poller.join(40)
    return {
        "probes": len(probed),
        "failed": failed,
        "p50_ms": round(1e3 * percentile(probed, 50), 2),
        "p99_ms": round(1e3 * percentile(probed, 99), 2),
        "max_ms": round(1e3 * max(probed), 2),
        "held": sum(one > 1 for one in waited),
        "answered_at_once": sum(one <= 1 for one in waited),
    }


def _probe(web: Web, seconds: float) -> tuple[list[float], int]:
    """Seconds of each /healthz on a new connection, and how many failed."""
    took, failed, until = [], 0, time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        connection = web.connect()
        try:
            connection.request("GET", "/healthz")
            failed += connection.getresponse().status != 200
        except OSError:
            failed += 1
        finally:
            connection.close()
        took.append(time.perf_counter() - began)
        time.sleep(0.02)
    return took, failed
