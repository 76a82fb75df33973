"""The command: `python -m bench.page [--readme] [--print] [--results DIR]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.page.render import put_between, render_page, render_readme
from bench.page.stored import RESULTS, read_stored
from bench.whole import read_whole

ROOT = Path(__file__).resolve().parents[2]
PAGE, README = ROOT / "docs" / "performance.md", ROOT / "README.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or the README's table; with `--print` to stdout instead. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.page", description="The page of figures, from stored results."
    )
    parser.add_argument("--readme", action="store_true", help="the README's table instead of docs/performance.md")
    parser.add_argument("--print", action="store_true", help="to stdout, and write nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    given = parser.parse_args(arguments)
    sections, missing = read_stored(given.results)
    whole = read_whole(given.results)
    text = render_readme(sections) if given.readme else render_page(sections, missing, whole)
    if given.print:
        print(text, end="" if text.endswith("\n") else "\n")
    elif given.readme:
        README.write_text(put_between(README.read_text(), text))
    else:
        PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
