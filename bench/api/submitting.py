"""Submissions a second and their slowest hundredth, beside a bare Flask route in the same run."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from typing import Any

from bench.api.web import BARE, OURS, Web, open_web
from bench.figures import Figure, percentile
from bench.queue.stand import MODEL, Stand, make_bodies

CLIENTS = (1, 8, 32)


def measure_submission(stand: Stand, *, seconds: float, repeats: int) -> dict[str, Any]:
    """Rates and latencies for each number of clients, ours and the bare route taking turns."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with open_web(stand, OURS) as ours, open_web(stand, BARE) as bare:
        for web in (ours, bare):
            run_clients(web, 2, min(1.0, seconds))  # the first requests open connections and pages of code
        for _ in range(repeats):
            for clients in CLIENTS:
                for name, web in (("bare", bare), ("ours", ours)):
                    found.setdefault((name, clients), []).append(run_clients(web, clients, seconds))
                stand.run("TRUNCATE jobs, queue")
    return {"seconds": seconds, "rows": [_tell(clients, found) for clients in CLIENTS]}


def _tell(clients: int, found: dict[tuple[str, int], list[dict[str, float]]]) -> dict[str, Any]:
    rows: dict[str, Any] = {"clients": clients}
    for name in ("ours", "bare"):
        runs = found[name, clients]
        rows[name] = {key: asdict(Figure.of([run[key] for run in runs])) for key in ("per_s", "p50_ms", "p99_ms")}
    rows["of_bare"] = rows["ours"]["per_s"]["median"] / rows["bare"]["per_s"]["median"]
    rows["p99_of_bare"] = rows["ours"]["p99_ms"]["median"] / rows["bare"]["p99_ms"]["median"]
    return rows


def run_clients(web: Web, clients: int, seconds: float) -> dict[str, float]:
    """So many clients, each with a connection of its own, one request after the other. Raises RuntimeError where an
    answer is no 202."""
    bodies = [json.dumps({"model": MODEL, "messages": [{"role": "user", "content": text}]}).encode()
              for text in make_bodies(50, 4)]  # fmt: skip
    took: list[float] = []
    wrong: list[int] = []
    until = time.perf_counter() + seconds

    def send() -> None:
        connection = web.connect()
        headers = {**web.headers, "Content-Type": "application/json"}
        mine, number = [], 0
        while (began := time.perf_counter()) < until:
            connection.request("POST", "/v1/jobs", bodies[number % len(bodies)], headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 202:
                wrong.append(answer.status)
                break
            mine.append(time.perf_counter() - began)
            number += 1
        connection.close()
        took.extend(mine)

    threads = [threading.Thread(target=send) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise RuntimeError(f"a submission was answered with {wrong[0]}")
    spent = time.perf_counter() - began
    return {
        "per_s": len(took) / spent,
        "p50_ms": 1e3 * percentile(took, 50),
        "p99_ms": 1e3 * percentile(took, 99),
    }
