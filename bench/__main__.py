"""Every bench that this machine can run, one after the other, then the page: `python -m bench`, or `make bench`.

    python -m bench --list                     # what there is, how long it takes, what would be skipped and why
    python -m bench --parts queue,loading      # some of it
    python -m bench --small                    # sizes that only show that everything works, in a folder of their own

A full run takes an hour and a half on two cores; what is not run keeps the results that are stored. Then
docs/performance.md and the README's table are written. A run of all parts leaves its record beside the results:
whole.py. Ends with 1 where a bench missed its goal or broke, with 2 where the command line is wrong.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.everything import EVERY, ROOT, Bench, choose, find_reasons, write_command
from bench.page.__main__ import main as write_page
from bench.page.stored import RESULTS
from bench.whole import Whole

#: The code of a bench that broke before it had written anything.
NO_RESULTS = -1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Every bench, then the page of figures.")
    names = ", ".join(bench.name for bench in EVERY)
    parser.add_argument("--parts", default="", help=f"comma-separated; all if left out: {names}")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument(
        "--small", action="store_true", help="sizes that say nothing but that all works; stores nothing"
    )
    given = parser.parse_args(arguments)
    try:
        chosen = choose(given.parts)
    except ValueError as error:
        parser.error(str(error))
    plan = [(bench, find_reasons(bench, small=given.small)) for bench in chosen]
    for bench, reasons in plan:
        print(f"{bench.name:16} {bench.takes:12} {'skipped: ' + '; '.join(reasons) if reasons else 'runs'}", flush=True)
    if given.list:
        return 0
    able = [bench for bench, reasons in plan if not reasons]
    if given.small:
        with tempfile.TemporaryDirectory(prefix="bench-small-") as folder:
            ended = run_all(able, Path(folder), small=True)
            write_page(["--print", "--results", folder])
    else:
        skipped = {bench.name: "; ".join(reasons) for bench, reasons in plan if reasons}
        ended = run_all(able, RESULTS, small=False, whole=None if given.parts else Whole.begin(skipped))
        write_page([])
        write_page(["--readme"])
    wrong = [f"{name} ended with {code}" for name, code in ended if code]
    if wrong and given.small:
        print(f"Of small sizes a missed goal says nothing: {'; '.join(wrong)}.")
        wrong = [f"{name} left no results" for name, code in ended if code == NO_RESULTS]
    print("; ".join(wrong) if wrong else f"{len(ended)} benches ran, {len(plan) - len(able)} were skipped.")
    return 1 if wrong else 0


def run_all(benches: Sequence[Bench], out: Path, *, small: bool, whole: Whole | None = None) -> list[tuple[str, int]]:
    """(name, exit code) of each; one that breaks keeps no other from running. `whole` is written below `out`."""
    ended = []
    for bench in benches:
        command = write_command(bench, out, small=small)
        print(f"== {bench.name}: python {' '.join(command)}", flush=True)
        before, began = list_results(out), time.monotonic()
        code = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
        ended.append((bench.name, code if list_results(out) != before or not code else NO_RESULTS))
        if whole is not None:
            whole.add(bench.name, bench.tell_command(), ended[-1][1], time.monotonic() - began)
            whole.write(out)
    if whole is not None:
        whole.end()
        whole.write(out)
    return ended


def list_results(out: Path) -> dict[Path, int]:
    """The files of results below a folder, with the time of their last change."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*.json*")}


if __name__ == "__main__":
    sys.exit(main())
