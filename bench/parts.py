"""A bench made of parts that run one by one, each on a fresh stand: its command line, and what every page of it has."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.machine import describe_machine
from bench.queue.stand import Stand, open_stand

#: What a part measures, by its name, in the order of a full run.
Parts = dict[str, Callable[[Stand], dict[str, Any]]]
_MACHINE = ("cpu", "cores_used", "memory_gib", "system", "python")


def run_parts(
    name: str,
    what: str,
    sizes: Mapping[str, dict[str, Any]],
    make_parts: Callable[[dict[str, Any]], Parts],
    write: Callable[[Path, dict[str, Any]], None],
) -> dict[str, Any]:
    """Run the parts that the command line names (else all), `write` after each what was found so far, and answer it.

    Parts that are not named keep what an earlier run wrote to NAME.json. `sizes` has those of a `full` run and of a
    `small` one, which only shows that everything works.
    """
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=what)
    names = ", ".join(make_parts(sizes["small"]))
    parser.add_argument("--parts", default="", help=f"comma-separated; all if left out: {names}")
    parser.add_argument("--small", action="store_true", help="sizes that say nothing but that all works")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    given = parser.parse_args()
    known = make_parts(sizes["small" if given.small else "full"])
    wanted = given.parts.split(",") if given.parts else list(known)
    if unknown := set(wanted) - set(known):
        parser.error(f"no part named {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    path = given.out / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for part in wanted:
        began = time.monotonic()
        with open_stand() as stand:  # a fresh cluster each: no part sees what another left
            found[part] = {**known[part](stand), "machine": describe_machine(1, 0), "small": given.small}
        sys.stdout.write(f"{part}: {json.dumps(found[part])}  ({time.monotonic() - began:.0f} s)\n")
        sys.stdout.flush()
        write(given.out, found)
    return found


def render_goals(judged: Sequence[tuple[str, str, str, bool]]) -> str:
    """The table of (what, goal, measured, met)."""
    lines = ["| what | goal | measured | |", "|---|---|---|---|"]
    lines += [f"| {what} | {goal} | {seen} | {'met' if met else '**missed**'} |" for what, goal, seen, met in judged]
    return "\n".join(lines) + "\n\n"


def render_machines(found: Mapping[str, Any]) -> str:
    """On what the parts ran, and beside what load."""
    seen = {json.dumps({name: part["machine"][name] for name in _MACHINE}) for part in found.values()}
    loads = [part["machine"]["load_average"] for part in found.values()]
    lines = ["## Machine", ""]
    lines += [", ".join(f"{name} {value}" for name, value in json.loads(one).items()) + "." for one in sorted(seen)]
    lines.append(f"Load average when a part ended: {min(loads):.1f} to {max(loads):.1f}.")
    if any(part["small"] for part in found.values()):
        lines.append("\n**Some parts were run with --small, whose figures say nothing.**")
    return "\n".join(lines) + "\n"
