"""The queue's figures: `python -m bench.queue [--parts …] [--small] [--out DIR]`, or `make bench-queue`.

Parts that are not named keep what an earlier run wrote to queue.json. All on this machine: Postgres with fsync, Valkey,
workers and this process share its cores.
"""

from __future__ import annotations

import sys
from typing import Any

from bench.parts import Parts, run_parts
from bench.queue import report
from bench.queue.claiming import measure_claims
from bench.queue.contending import measure_contender
from bench.queue.draining import measure_drain
from bench.queue.recovering import measure_recovery
from bench.queue.submitting import measure_submission
from bench.queue.waking import measure_waking

#: Sizes of a full run and of one that only shows that everything works.
SIZES = {
    "full": {
        "rows": 20_000,
        "singles": 500,
        "repeats": 3,
        "jobs": 40_000,
        "backlog": 2_000_000,
        "tenants": 50,
        "claims": 300,
        "wakes": 60,
        "held": 64,
        "ttl_s": 10.0,
        "peer_jobs": 6000,
        "killed": 3000,
        "wait_s": 60.0,
    },
    "small": {
        "rows": 1000,
        "singles": 40,
        "repeats": 1,
        "jobs": 2000,
        "backlog": 20_000,
        "tenants": 50,
        "claims": 20,
        "wakes": 8,
        "held": 16,
        "ttl_s": 3.0,
        "peer_jobs": 400,
        "killed": 300,
        "wait_s": 4.0,
    },
}


def parts(sizes: dict[str, Any]) -> Parts:
    """Every part by name, in the order of a full run."""
    peers = {"jobs": sizes["peer_jobs"], "killed_jobs": sizes["killed"], "wait_s": sizes["wait_s"]}
    return {
        "submission": lambda stand: measure_submission(
            stand, rows=sizes["rows"], singles=sizes["singles"], repeats=sizes["repeats"]
        ),
        "drain": lambda stand: measure_drain(stand, jobs=sizes["jobs"]),
        "claims": lambda stand: measure_claims(
            stand, rows=sizes["backlog"], tenants=sizes["tenants"], claims=sizes["claims"]
        ),
        "waking": lambda stand: measure_waking(stand, jobs=sizes["wakes"]),
        "recovery": lambda stand: measure_recovery(stand, jobs=sizes["held"], lease_ttl_s=sizes["ttl_s"]),
        "tasks": lambda stand: measure_contender(stand, "tasks", **peers),
        "batches": lambda stand: measure_contender(stand, "batches", **peers),
    }


def main() -> int:
    """Returns the exit code: 0, or 1 where a job of ours was lost."""
    found = run_parts("queue", "What the queue costs.", SIZES, parts, report.write)
    return 1 if found.get("recovery", {}).get("lost") else 0


if __name__ == "__main__":
    sys.exit(main())
