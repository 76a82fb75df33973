"""vLLM's CPU build and Xinference beside our engine: the same model files, pictures and prompts, taking turns.

    python -m bench.peers install NAME...
    python -m bench.peers run NAME... [--size tiny|large] [--workloads ...] [--repeats N] [--add]

Names are vllm, vllm-server (run only) and xinference. Writes peers-SIZE.json and peers-SIZE.md anew after each
workload; with --add it begins from what the file holds. Ends with 1 where texts differ other than at a tie of two
scores, 2 where a peer cannot be installed or started. bench/peers.md says how and why.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench import goals, machine, peer_report, servers, workloads
from bench.answers import TextComparison
from bench.contest import tell
from bench.contestants import Served
from bench.figures import Figure
from bench.models import SHAPES, build_model
from bench.recipes import RECIPES, VLLM, XINFERENCE, PeerError, Recipe
from bench.scale import SCALES, Scale
from bench.sittings import DifferentResultsError, Sitting, join_answers, join_runs, open_results
from workers.engine.continuous import open_continuous
from workers.engine.loader import LoadedModel, load_model
from workers.engine.verify import verify_model

_SLOTS = 64
_WARM = 4


@dataclass(frozen=True)
class Entry:
    """A peer in the table: how it is opened, what it was told, and what the comparison with it does not show."""

    recipe: Recipe
    open: Callable[[Path, str], AbstractContextManager[servers.Peer]]
    flags: str
    limits: str
    #: Sides of the pictures, in pixels; None for those of the model's other benches.
    sides: tuple[int, ...] | None = None
    #: Requests of each workload, where the peer is too slow for as many as the engine's bench has.
    most: int | None = None


#: Xinference scales pictures to multiples of 28 pixels before the model's processor scales them to multiples of 32.
#: Only pictures whose sides are both reach the model as everybody else's do.
_UNSCALED = math.lcm(28, 32)
_CPU = "nothing is said about GPUs, for which it is made and where its kernels decide"
ENTRIES = {
    "vllm": Entry(
        VLLM,
        servers.open_vllm,
        "LLM.chat, float32, 1 thread, max_num_seqs 64, enforce_eager, cache of preprocessed pictures off, prefix cache "
        "emptied before each run",
        f"its CPU build, without its server: {_CPU}.",
    ),
    "vllm-server": Entry(
        VLLM,
        servers.open_vllm_server,
        "api_server, float32, 1 thread, max_num_seqs 64, enforce_eager, 64 connections",
        f"its CPU build behind HTTP, ours without HTTP: its server's work counts against it; {_CPU}.",
    ),
    "xinference": Entry(
        XINFERENCE,
        servers.open_xinference,
        "transformers engine, float32, 1 thread, 8 connections",
        "its transformers engine behind HTTP, ours without HTTP; on a GPU it would hand the work to vLLM.",
        sides=(_UNSCALED,),
        most=24,
    ),
}


@dataclass(frozen=True)
class Match:
    """One peer and our engine on one model, each with the same requests."""

    peer: servers.Peer
    ours: Served
    studio: workloads.Studio
    scale: Scale
    loaded: LoadedModel

    def play(self, name: str, held: Mapping[str, Any] | None) -> dict[str, Any]:
        """Both on one workload, one beginning and then the other, each repeat with pictures of its own.

        So no cache helps twice. `held` is what earlier sittings found. Raises DifferentResultsError.
        """
        count = self.scale.shared if name == "shared" else self.scale.requests
        if held and held["requests"] != count:
            raise DifferentResultsError(f"{name} was taken with {held['requests']} requests; run without --add.")
        earlier = held["runs"] if held else {}
        done, comparison = len(earlier.get("peer", ())), TextComparison(self.loaded)
        runs: dict[str, list[float]] = {"peer": [], "ours": []}
        for repeat in range(done, done + self.scale.repeats):
            workload = workloads.KINDS[name](replace(self.studio, first=repeat * count), count)
            self._take_turns(workload, comparison, runs, first=repeat % 2)
        runs = join_runs(earlier, runs)
        rates = {who: Figure.of(values) for who, values in runs.items()}
        return {
            "about": workload.about,
            "requests": count,
            "runs": runs,
            "rates": {who: asdict(rate) for who, rate in rates.items()},
            "ratio": rates["ours"].median / rates["peer"].median,
            "answers": join_answers({"peer": held["answers"]} if held else {}, {"peer": comparison.as_json()})["peer"],
        }

    def _take_turns(
        self, workload: workloads.Workload, comparison: TextComparison, runs: dict[str, list[float]], *, first: int
    ) -> None:
        """`first` is 0 where the peer begins, 1 where we do."""
        texts = None if first else self.peer.answer(workload.requests)
        with self.peer.paused():
            run = self.ours.run(workload.requests, workloads.warm_up(self.studio, _WARM))
        texts = texts or self.peer.answer(workload.requests)
        runs["peer"].append(workload.tokens / texts.seconds)
        runs["ours"].append(run.clock_rate)
        comparison.add(workload.requests, run, texts.answers)
        tell(f"{workload.name}: peer {runs['peer'][-1]:.0f} tokens/s, ours {runs['ours'][-1]:.0f}")


def run(name: str, given: argparse.Namespace, results: dict[str, Any], loaded: LoadedModel, ours: Served) -> None:
    """Add one peer to the results, written after each workload. Raises PeerError and DifferentResultsError."""
    entry = ENTRIES[name]
    scale = SCALES[given.size].changed(given.repeats, given.requests or entry.most)
    version = f"{entry.recipe.package} {entry.recipe.version()}"
    about = {"version": version, "flags": entry.flags, "limits": entry.limits, "ours": ours.name}
    held = results["peers"].setdefault(name, {**about, "workloads": {}})
    if {key: held[key] for key in about} != about:
        raise DifferentResultsError(f"the file holds another version or other flags of {name}; run without --add.")
    with tempfile.TemporaryDirectory() as pictures, entry.open(given.models / given.size, given.size) as peer:
        studio = workloads.Studio(Path(pictures), entry.sides or SHAPES[given.size].sides)
        peer.answer(workloads.warm_up(studio, _WARM))
        match = Match(peer, ours, studio, scale, loaded)
        for workload in given.workloads:
            sitting = Sitting.begin()
            held["workloads"][workload] = match.play(workload, held["workloads"].get(workload))
            results["sittings"].append(sitting.end(f"{name}, {workload}"))
            results["goals"] = goals.judge_peers(results)
            for path in peer_report.write(results, given.out):
                tell(f"wrote {path}")


def run_all(given: argparse.Namespace) -> int:
    """All peers named. Returns the exit code."""
    machine.pin_to_cores(given.cores)
    described = machine.describe_machine(1, given.cores)
    loaded = load_model(build_model(given.size, given.models), threads=1, dtype="float32")
    verdict = verify_model(loaded)
    if verdict.engine != "transformers":
        tell(f"the self-test refuses the continuous engine: {verdict.reasons}")
        return 2
    about = f"continuous, {_SLOTS} slots"
    ours = Served(about, about, lambda: open_continuous(loaded, slots=_SLOTS, verdict=verdict), _SLOTS)
    model = {"parameters": sum(p.numel() for p in loaded.model.parameters()), "dtype": verdict.dtype}
    fresh = {"size": given.size, "machine": described, "model": model, "peers": {}}
    results = open_results(given.out / f"peers-{given.size}.json", fresh, add=given.add)
    for name in given.names:
        run(name, given, results, loaded, ours)
    return int(any(not place["tie"] for place in _differences(results)))


def _differences(results: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for peer in results["peers"].values():
        for workload in peer["workloads"].values():
            yield from workload["answers"]["differences"].values()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="Peers beside our engine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    install = verbs.add_parser("install", help="make a peer's environment: minutes, and 3 to 4 GB each")
    install.add_argument("names", nargs="+", choices=sorted(RECIPES))
    runs = verbs.add_parser("run", help="compare, and write the tables")
    runs.add_argument("names", nargs="+", choices=sorted(ENTRIES))
    runs.add_argument("--size", choices=sorted(SHAPES), default="tiny")
    runs.add_argument("--workloads", nargs="+", choices=tuple(workloads.KINDS), default=tuple(workloads.KINDS))
    runs.add_argument("--repeats", type=int, help="runs of each; 5 tiny, 3 large")
    runs.add_argument("--requests", type=int)
    runs.add_argument("--add", action="store_true", help="go on with what the file holds")
    runs.add_argument("--cores", type=int, default=0, help="cores that both stay on; 0 for all")
    runs.add_argument("--out", type=Path, default=Path("bench/results"), metavar="DIR")
    runs.add_argument("--models", type=Path, default=Path("artifacts/bench"), metavar="DIR", help="made where missing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    given = parse(arguments)
    try:
        if given.verb == "run":
            return run_all(given)
        for name in given.names:
            RECIPES[name].set_up()
    except (PeerError, DifferentResultsError) as fault:
        tell(str(fault))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
