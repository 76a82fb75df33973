"""One model and its contestants: throughput, open arrivals, occupancy and memory, each measured by one call."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import memory, workloads
from bench.answers import Comparison
from bench.arrivals import run_arrivals
from bench.contestants import Contestant, Generate, Run, Served
from bench.figures import Figure, find_best, ratios
from bench.models import SHAPES
from bench.scale import Scale
from bench.sittings import DifferentResultsError, join_runs
from workers.engine.continuous import open_continuous
from workers.engine.features import Budgets
from workers.engine.loader import LoadedModel
from workers.engine.protocol import Request
from workers.engine.static import StaticBatchEngine
from workers.engine.verify import Verdict

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
        """All, those that set the reference answers first. Where a run takes minutes, our static engine is left out."""
        return [*self.static, *([self.plain] if self.scale.plain else []), *self.ours]

    def _continuous(self, slots: int) -> Served:
        return Served(
            f"continuous, {slots} slots",
            f"our continuous engine with {slots} slots, features as the self-test left them",
            lambda: open_continuous(self.loaded, slots=slots, verdict=self.verdict),
            slots,
        )

    def run_throughput(self, name: str, held: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Every contestant on the workload named, taking turns, each repeat beginning with another one.

        `held` is what earlier sittings found; the figures are over all runs. Raises DifferentResultsError where it is
        about other requests.
        """
        count = self.scale.shared if name == "shared" else self.scale.requests
        workload = workloads.KINDS[name](self.studio, count)
        if held and (held["requests"], held["tokens"]) != (len(workload.requests), workload.tokens):
            raise DifferentResultsError(f"{name} was taken with {held['requests']} requests; run without --add.")
        earlier = held["runs"] if held else {}
        runs: dict[str, list[float]] = {contestant.name: [] for contestant in self.contestants}
        done = max((len(values) for values in earlier.values()), default=0)
        for repeat in range(done, done + self.scale.repeats):
            turn = repeat % len(self.contestants)
            for contestant in self.contestants[turn:] + self.contestants[:turn]:
                runs[contestant.name].append(self._run(contestant, workload).rate)
        runs = join_runs(earlier, runs)
        rates = {who: Figure.of(values) for who, values in runs.items()}
        best = find_best(rates, [contestant.name for contestant in self.static])
        return {
            "about": workload.about,
            "requests": len(workload.requests),
            "tokens": workload.tokens,
            "runs": runs,
            "rates": {who: asdict(rate) for who, rate in rates.items()},
            "best_static": best,
            "ratios": ratios(rates, best),
        }

    def _run(self, contestant: Contestant, workload: workloads.Workload) -> Run:
        run = contestant.run(workload.requests, self.warm)
        self.comparison.add(contestant.name, workload.requests, run.answers)
        tell(f"{workload.name}: {contestant.name} {run.rate:.0f} tokens/s, {run.cpu_s:.1f} s of {run.seconds:.1f} s")
        return run

    def run_arrivals(self, ragged: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Each engine at 70 % of what the faster continuous one did, and at 70 % of what the static one did."""
        rates = {name: Figure(**rate) for name, rate in ragged["rates"].items()}
        fastest = find_best(rates, [contestant.name for contestant in self.ours])
        engines = [contestant for contestant in self.contestants if isinstance(contestant, Served)]
        leaders = [fastest, *([self.plain.name] if self.plain in engines else [])]
        entries = []
        for leader in leaders:
            rate = _LOAD * rates[str(leader)].median * ragged["requests"] / ragged["tokens"]
            entries += [self._arrive(engine, rate, f"70 % of {leader}") for engine in engines]
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
        held = _CACHE_MIB * 2**20
        budgets = Budgets(encoder_cache_bytes=held, prefix_cache_bytes=held, pixel_cache_bytes=held)
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


def tell(line: str) -> None:
    """Progress, for whoever watches."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
