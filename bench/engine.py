"""The continuous engine beside `generate` and our static engine: throughput, latency, occupancy, memory.

    python -m bench.engine [--size tiny|large] [--parts ...] [--workloads ...] [--repeats N] [--add] [--soak]

Writes engine-SIZE.json and engine-SIZE.md anew after each part, so that what was measured is kept. With --add it begins
from what the file holds: parts that are measured again are replaced, and runs of a workload are added to its runs. So a
long bench can be taken in short sittings. Ends with 1 where answers differ other than at a tie of two scores, 2 where
the self-test refuses to serve the model continuously or the file holds figures of other code.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import goals, machine, workloads
from bench.contest import Bench, tell
from bench.models import SHAPES, build_model
from bench.report import write_results
from bench.scale import SCALES
from bench.sittings import DifferentResultsError, Sitting, join_answers, open_results
from workers.engine.loader import load_model
from workers.engine.verify import verify_model

PARTS = ("throughput", "arrivals", "occupancy", "memory")


def measure(bench: Bench, given: argparse.Namespace, results: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Key, name and figures of each part asked for, as soon as they are known. Arrivals need the ragged throughput."""
    if "throughput" in given.parts:
        for name in given.workloads:
            held = results.get("workloads", {})
            yield "workloads", name, {**held, name: bench.run_throughput(name, held.get(name))}
    if "arrivals" in given.parts and "ragged" in results.get("workloads", {}):
        yield "arrivals", "arrivals", bench.run_arrivals(results["workloads"]["ragged"])
    if "occupancy" in given.parts:
        yield "occupancy", "occupancy", bench.run_occupancy()
    wanted = goals.LONG_RUN if given.soak else given.memory_requests
    count = bench.scale.memory if wanted is None else wanted
    if "memory" in given.parts and count:
        yield "memory", "memory", bench.run_memory(count)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description="The continuous engine, compared.")
    parser.add_argument("--size", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--repeats", type=int, help="runs of each contestant; 5 tiny, 3 large")
    parser.add_argument("--requests", type=int, help="requests of each workload; 96 tiny, 32 large (12 shared)")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), metavar="DIR")
    parser.add_argument(
        "--models", type=Path, default=Path("artifacts/bench"), metavar="DIR", help="made where missing"
    )
    parser.add_argument("--cores", type=int, default=1, help="cores to stay on; 0 for all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--workloads", nargs="+", choices=tuple(workloads.KINDS), default=tuple(workloads.KINDS))
    parser.add_argument("--memory-requests", type=int, help="requests of the long run; 1000 tiny, 64 large")
    parser.add_argument("--add", action="store_true", help="go on with what the file holds")
    parser.add_argument("--soak", action="store_true", help=f"a long run of {goals.LONG_RUN:,} requests")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    given = parse(arguments)
    logging.basicConfig(level=logging.ERROR)
    scale = SCALES[given.size].changed(given.repeats, given.requests)
    machine.pin_to_cores(given.cores)
    described = machine.describe_machine(1, given.cores)
    loaded = load_model(build_model(given.size, given.models), threads=1, dtype="float32")
    verdict = verify_model(loaded)
    if verdict.engine != "transformers":
        tell(f"the self-test refuses the continuous engine: {verdict.reasons}")
        return 2
    with tempfile.TemporaryDirectory() as pictures:
        bench = Bench(given.size, loaded, verdict, scale, Path(pictures))
        fresh = {
            "size": given.size,
            "machine": described,
            "model": {"parameters": sum(p.numel() for p in loaded.model.parameters()), "dtype": verdict.dtype},
            "verdict": verdict.as_json(),
            "contestants": {contestant.name: contestant.about for contestant in bench.contestants},
        }
        try:
            results = open_results(given.out / f"engine-{given.size}.json", fresh, add=given.add)
            _fill(bench, given, results)
        except DifferentResultsError as fault:
            tell(str(fault))
            return 2
    answers = results.get("answers", {}).values()
    return int(any(not place["tie"] for entry in answers for place in entry["differences"].values()))


def _fill(bench: Bench, given: argparse.Namespace, results: dict[str, Any]) -> None:
    """Measure, and write the files anew after each part. Raises DifferentResultsError."""
    earlier, sitting = results.get("answers", {}), Sitting.begin()
    for key, part, found in measure(bench, given, results):
        results[key] = found
        results["answers"] = join_answers(earlier, bench.comparison.as_json())
        results["sittings"].append(sitting.end(part))
        results["goals"] = goals.judge(results, [contestant.name for contestant in bench.ours])
        for path in write_results(results, given.out, f"engine-{given.size}"):
            tell(f"wrote {path}")
        sitting = Sitting.begin()


if __name__ == "__main__":
    sys.exit(main())
