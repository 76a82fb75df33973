"""The figures of a night of documents: `python -m bench.documents [--parts …] [--small]`, or `make bench-documents`.

Parts that are not named keep what an earlier run wrote to documents.json.
"""

from __future__ import annotations

import sys
from typing import Any

from bench.documents import report
from bench.documents.interactive import measure_interactive
from bench.documents.listing import measure_listing
from bench.documents.nights import measure_night
from bench.parts import Parts, run_parts

#: Sizes of a full run and of one that only shows that everything works.
SIZES = {
    "full": {"documents": 2000, "pages_per_s": 8.0, "entries": 2_000_000, "requests": 40},
    "small": {"documents": 16, "pages_per_s": 8.0, "entries": 3000, "requests": 4},
}


def parts(sizes: dict[str, Any]) -> Parts:
    """Every part by name, in the order of a full run."""
    return {
        "night": lambda stand: measure_night(stand, documents=sizes["documents"], pages_per_s=sizes["pages_per_s"]),
        "listing": lambda stand: measure_listing(stand, entries=sizes["entries"]),
        "interactive": lambda stand: measure_interactive(stand, requests=sizes["requests"]),
    }


def main() -> int:
    """Returns the exit code: 0, or 1 where a document was lost from a list."""
    found = run_parts("documents", "What a night of documents costs.", SIZES, parts, report.write)
    listing = found.get("listing", {})
    return int(listing.get("listed") != listing.get("entries"))


if __name__ == "__main__":
    sys.exit(main())
