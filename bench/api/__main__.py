"""The API's figures: `python -m bench.api [--parts …] [--small] [--out DIR]`, or `make bench-api`.

Parts that are not named keep what an earlier run wrote to api.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.api import report
from bench.api.serving import measure_service
from bench.api.submitting import measure_submission
from bench.api.uploading import measure_batch
from bench.api.waiting import measure_waiting
from bench.machine import describe_machine
from bench.queue.stand import Stand, open_stand

#: Sizes of a full run and of one that only shows that everything works.
SIZES = {
    "full": {"seconds": 4.0, "repeats": 3, "lines": 50_000, "wait_s": 5.0, "pages": 400},
    "small": {"seconds": 0.5, "repeats": 1, "lines": 300, "wait_s": 1.5, "pages": 24},
}


def parts(sizes: dict[str, Any]) -> dict[str, Callable[[Stand], dict[str, Any]]]:
    """Every part by name, in the order of a full run."""
    return {
        "submission": lambda stand: measure_submission(stand, seconds=sizes["seconds"], repeats=sizes["repeats"]),
        "batch": lambda stand: measure_batch(stand, lines=sizes["lines"]),
        "waiting": lambda stand: measure_waiting(stand, seconds=sizes["wait_s"]),
        "service": lambda stand: measure_service(stand, pages=sizes["pages"]),
    }


def main() -> int:
    """Returns the exit code: 0, or 1 where /healthz failed or a line was lost."""
    parser = argparse.ArgumentParser(prog="python -m bench.api", description="What the HTTP API costs.")
    names = ", ".join(parts(SIZES["small"]))
    parser.add_argument("--parts", default="", help=f"comma-separated; all if left out: {names}")
    parser.add_argument("--small", action="store_true", help="sizes that say nothing but that all works")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    given = parser.parse_args()
    known = parts(SIZES["small" if given.small else "full"])
    wanted = given.parts.split(",") if given.parts else list(known)
    if unknown := set(wanted) - set(known):
        parser.error(f"no part named {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    found = _read(given.out / "api.json")
    for name in wanted:
        began = time.monotonic()
        with open_stand() as stand:  # a fresh cluster each: no part sees what another left
            found[name] = {**known[name](stand), "machine": describe_machine(1, 0), "small": given.small}
        sys.stdout.write(f"{name}: {json.dumps(found[name])}  ({time.monotonic() - began:.0f} s)\n")
        sys.stdout.flush()
        report.write(given.out, found)
    lost = found.get("batch", {}).get("queued") != found.get("batch", {}).get("lines")
    return 1 if lost or any(row["failed"] for row in found.get("waiting", {}).get("rows", [])) else 0


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())
    return found


if __name__ == "__main__":
    sys.exit(main())
