"""The API's figures: `python -m bench.api [--parts …] [--small] [--out DIR]`, or `make bench-api`.

Parts that are not named keep what an earlier run wrote to api.json.
"""

from __future__ import annotations

import sys
from typing import Any

from bench.api import report
from bench.api.serving import measure_service
from bench.api.submitting import measure_submission
from bench.api.uploading import measure_batch
from bench.api.waiting import measure_waiting
from bench.parts import Parts, run_parts

#: Sizes of a full run and of one that only shows that everything works.
SIZES = {
    "full": {"seconds": 4.0, "repeats": 3, "lines": 50_000, "wait_s": 5.0, "pages": 400},
    "small": {"seconds": 0.5, "repeats": 1, "lines": 300, "wait_s": 1.5, "pages": 24},
}


def parts(sizes: dict[str, Any]) -> Parts:
    """Every part by name, in the order of a full run."""
    return {
        "submission": lambda stand: measure_submission(stand, seconds=sizes["seconds"], repeats=sizes["repeats"]),
        "batch": lambda stand: measure_batch(stand, lines=sizes["lines"]),
        "waiting": lambda stand: measure_waiting(stand, seconds=sizes["wait_s"]),
        "service": lambda stand: measure_service(stand, pages=sizes["pages"]),
    }


def main() -> int:
    """Returns the exit code: 0, or 1 where /healthz failed or a line was lost."""
    found = run_parts("api", "What the HTTP API costs.", SIZES, parts, report.write)
    lost = found.get("batch", {}).get("queued") != found.get("batch", {}).get("lines")
    return 1 if lost or any(row["failed"] for row in found.get("waiting", {}).get("rows", [])) else 0


if __name__ == "__main__":
    sys.exit(main())
