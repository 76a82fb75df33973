"""The continuous engine beside `generate` and our static engine: throughput, latency, occupancy, memory.

    python -m bench.engine [--size tiny|large] [--repeats N] [--requests N] [--out DIR] [--soak]

Writes engine-SIZE.json and engine-SIZE.md anew after each part, so that what was measured is kept. Ends with 1 where
answers differ other than at a tie of two scores, 2 where the self-test refuses to serve the model continuously.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import goals, machine, memory, workloads
from bench.answers import Comparison
from bench.arrivals import run_arrivals
from bench.contestants import Contestant, Generate, Run, Served
from bench.figures import Figure, find_best, ratios
from bench.models import SHAPES, build_model
from bench.report import write_results
from bench.scale import SCALES, Scale
from workers.engine.continuous import open_continuous
from workers.engine.features import Budgets
from workers.engine.loader import LoadedModel, load_model
from workers.engine.protocol import Request
from workers.engine.static import StaticBatchEngine
from workers.engine.verify import Verdict, verify_model

PARTS = ("throughput", "arrivals", "occupancy", "memory")
#: Offered load, as a share of what an engine could do in the same run.
_LOAD = 0.7
#: Requests of other texts and pictures that each run begins with, unmeasured.
_WARM = 4
#: What caches may hold in the long run, in MiB: little, so that they are full long before its end.
_CACHE_MIB = 16


class Bench:
    """One loaded model, its contestants and its workloads."""

    def __init__(self, size: str, loaded: LoadedModel, verdict: Verdict, scale: Scale, pictures: Path) -> None:
        self.size, self.loaded, self.verdict, self.scale = size, loaded, verdict, scale
        self.studio = workloads.Studio(pictures, SHAPES[size].sides)
        self.warm = workloads.warm_up(self.studio, _WARM)
        self.comparison = Comparison(loaded)
        self.static = [Generate(loaded, 1, scale.singles), Generate(loaded, 16), Generate(loaded, 64)]
        self.ours = [self._continuous(slots) for slots in (16, 64)]
        self.plain = Served(
            "static engine, 64 rows",
            "our engine around generate, batches of up to 64 of what waits",
            lambda: StaticBatchEngine(loaded, slots=64),
            64,
        )

    @property
    def contestants(self) -> list[Contestant]:
        """All, those that set the reference answers first."""
        return [*self.static, self.plain, *self.ours]

    def _continuous(self, slots: int) -> Served:
        return Served(
            f"continuous, {slots} slots",
            f"our continuous engine with {slots} slots, features as the self-test left them",
            lambda: open_continuous(self.loaded, slots=slots, verdict=self.verdict),
            slots,
        )

    def run_throughput(self, name: str) -> dict[str, Any]:
        """Every contestant on the workload named, taking turns, each repeat beginning with another one."""
        count = self.scale.shared if name == "shared" else self.scale.requests
        workload = workloads.KINDS[name](self.studio, count)
        runs: dict[str, list[float]] = {contestant.name: [] for contestant in self.contestants}
        for repeat in range(self.scale.repeats):
            turn = repeat % len(self.contestants)
            for contestant in self.contestants[turn:] + self.contestants[:turn]:
                runs[contestant.name].append(self._run(contestant, workload).rate)
        rates = {who: Figure.of(values) for who, values in runs.items()}
        best = find_best(rates, [contestant.name for contestant in self.static])
        return {
            "about": workload.about,
            "requests": len(workload.requests),
            "tokens": workload.tokens,
            "rates": {who: asdict(rate) for who, rate in rates.items()},
            "best_static": best,
            "ratios": ratios(rates, best),
        }

    def _run(self, contestant: Contestant, workload: workloads.Workload) -> Run:
        run = contestant.run(workload.requests, self.warm)
        self.comparison.add(contestant.name, workload.requests, run.answers)
        tell(f"{workload.name}: {contestant.name} {run.rate:.0f} tokens/s in {run.seconds:.1f} s")
        return run

    def run_arrivals(self, ragged: dict[str, Any]) -> list[dict[str, Any]]:
        """Each engine at 70 % of what the faster continuous one did, and at 70 % of what the static one did."""
        rates = {name: Figure(**rate) for name, rate in ragged["rates"].items()}
        fastest = find_best(rates, [contestant.name for contestant in self.ours])
        entries = []
        for leader in (fastest, self.plain.name):
            rate = _LOAD * rates[str(leader)].median * ragged["requests"] / ragged["tokens"]
            for contestant in (*self.ours, self.plain):
                entries.append(self._arrive(contestant, rate, f"70 % of {leader}"))
        return entries

    def _arrive(self, contestant: Served, rate: float, about: str) -> dict[str, Any]:
        requests = workloads.ragged(self.studio, self.scale.arrivals, "arriving").requests
        due_s = workloads.draw_arrivals(len(requests), rate)
        found = run_arrivals(contestant, requests, due_s, self.warm).percentiles()
        tell(f"arrivals at {rate:.2f}/s: {contestant.name} p50 {found['latency_p50_s']:.3f} s")
        return {"contestant": contestant.name, "about": about, "rate": rate, "requests": len(requests), **found}

    def run_occupancy(self) -> dict[str, Any]:
        """The share of slots in use while more requests wait than there are slots."""
        found = {}
        for contestant in self.ours:
            count = self.scale.backlog * contestant.slots
            requests = workloads.ragged(self.studio, count, "backlog").requests
            share = contestant.run(requests, self.warm).occupancy
            if share is not None:
                found[contestant.name] = {"share": share, "requests": count}
                tell(f"occupancy: {contestant.name} {share:.3f}")
        return found

    def run_memory(self, count: int) -> dict[str, Any]:
        """Memory over `count` distinct requests, with small caches."""
        budgets = Budgets(encoder_cache_bytes=_CACHE_MIB * 2**20, prefix_cache_bytes=_CACHE_MIB * 2**20)
        lengths = workloads.draw_lengths(count)
        slots = 16
        engine = open_continuous(self.loaded, slots=slots, verdict=self.verdict, budgets=budgets)

        def ask(number: int) -> Request:
            return workloads.single(self.studio, number, lengths[number])

        try:
            found = memory.run_long(engine, ask, count, slots)
        finally:
            engine.close()
        tell(f"memory: {found['growth_mib']:+.1f} MiB")
        return {"contestant": f"continuous, {slots} slots", "cache_mib": _CACHE_MIB, **found}


def measure(bench: Bench, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The parts asked for, each as soon as it is known; arrivals need the ragged throughput of the same run."""
    found: dict[str, Any] = {}
    if "throughput" in given.parts:
        for name in given.workloads:
            found[name] = bench.run_throughput(name)
            yield {"workloads": found, "answers": bench.comparison.as_json()}
    if "arrivals" in given.parts and "ragged" in found:
        yield {"arrivals": bench.run_arrivals(found["ragged"])}
    if "occupancy" in given.parts:
        yield {"occupancy": bench.run_occupancy()}
    wanted = goals.LONG_RUN if given.soak else given.memory_requests
    count = bench.scale.memory if wanted is None else wanted
    if "memory" in given.parts and count:
        yield {"memory": bench.run_memory(count)}


def tell(line: str) -> None:
    """Progress, for whoever watches."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description="The continuous engine, compared.")
    parser.add_argument("--size", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--repeats", type=int, help="runs of each contestant; 5 tiny, 3 large")
    parser.add_argument("--requests", type=int, help="requests of each workload; 96 tiny, 64 large (24 shared)")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), metavar="DIR")
    parser.add_argument(
        "--models", type=Path, default=Path("artifacts/bench"), metavar="DIR", help="made where missing"
    )
    parser.add_argument("--cores", type=int, default=1, help="cores to stay on; 0 for all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--workloads", nargs="+", choices=tuple(workloads.KINDS), default=tuple(workloads.KINDS))
    parser.add_argument("--memory-requests", type=int, help="requests of the long run; 1000 tiny, 64 large")
    parser.add_argument("--soak", action="store_true", help=f"a long run of {goals.LONG_RUN:,} requests")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    given = parse(arguments)
    logging.basicConfig(level=logging.ERROR)
    scale = SCALES[given.size].changed(given.repeats, given.requests)
    machine.pin_to_cores(given.cores)
    results: dict[str, Any] = {"size": given.size, "machine": machine.describe_machine(1, given.cores)}
    loaded = load_model(build_model(given.size, given.models), threads=1, dtype="float32")
    verdict = verify_model(loaded)
    if verdict.engine != "transformers":
        tell(f"the self-test refuses the continuous engine: {verdict.reasons}")
        return 2
    with tempfile.TemporaryDirectory() as pictures:
        bench = Bench(given.size, loaded, verdict, scale, Path(pictures))
        results |= {
            "model": {"parameters": sum(p.numel() for p in loaded.model.parameters()), "dtype": verdict.dtype},
            "repeats": scale.repeats,
            "verdict": verdict.as_json(),
            "contestants": {contestant.name: contestant.about for contestant in bench.contestants},
        }
        for part in measure(bench, given):
            results |= part
            results["goals"] = goals.judge(results, [contestant.name for contestant in bench.ours])
            for path in write_results(results, given.out, f"engine-{given.size}"):
                tell(f"wrote {path}")
    answers = results.get("answers", {}).values()
    return int(any(not place["tie"] for entry in answers for place in entry["differences"].values()))


if __name__ == "__main__":
    sys.exit(main())
