"""vLLM's CPU build and Xinference beside our engine: the same model files, pictures and prompts, taking turns.

    python -m bench.peers install vllm|xinference
    python -m bench.peers run vllm|vllm-server|xinference [--size tiny|large]

`run` adds rows to the tables of `bench.engine`, which comes first. bench/peers.md says how and why.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench import machine, servers, workloads
from bench.contestants import Served
from bench.engine import tell
from bench.figures import Figure
from bench.models import SHAPES, build_model
from bench.recipes import RECIPES, VLLM, XINFERENCE, Recipe
from bench.report import write_results
from bench.scale import SCALES, Scale
from workers.engine.continuous import open_continuous
from workers.engine.loader import load_model
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


_CPU = "nothing is said about GPUs, for which it is made and where its kernels decide"
ENTRIES = {
    "vllm": Entry(
        VLLM,
        servers.open_vllm,
        "LLM.chat, float32, 1 thread, max_num_seqs 64, enforce_eager, prefix cache emptied before each run",
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
    ),
}


def compare(ours: Served, peer: servers.Peer, studio: workloads.Studio, scale: Scale) -> dict[str, Any]:
    """Both on every workload in turns, each repeat with pictures of its own, so that no cache helps twice."""
    peer.answer(workloads.warm_up(studio, _WARM))
    found = {}
    for name, kind in workloads.KINDS.items():
        count = scale.shared if name == "shared" else scale.requests
        theirs, mine, equal = [], [], 0
        for repeat in range(scale.repeats):
            workload = kind(replace(studio, first=repeat * count), count)
            texts = peer.answer(workload.requests)
            run = ours.run(workload.requests, workloads.warm_up(studio, _WARM))
            theirs.append(workload.tokens / texts.seconds)
            mine.append(run.rate)
            equal += sum(texts.answers[key].strip() == text.strip() for key, text in run.texts.items())
            tell(f"{name}: peer {theirs[-1]:.0f} tokens/s, ours {mine[-1]:.0f}")
        found[name] = {
            "rate": asdict(Figure.of(theirs)),
            "ours": asdict(Figure.of(mine)),
            "equal": f"{equal} of {scale.repeats * count}",
        }
    return found


def run(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The entry of one peer for the results."""
    entry, scale = ENTRIES[name], SCALES[given.size].changed(given.repeats, given.requests)
    model = build_model(given.size, given.models)
    loaded = load_model(model, threads=1, dtype="float32")
    verdict = verify_model(loaded)
    if verdict.engine != "transformers":
        raise SystemExit(f"the self-test refuses the continuous engine: {verdict.reasons}")
    about = f"continuous, {_SLOTS} slots"
    ours = Served(about, about, lambda: open_continuous(loaded, slots=_SLOTS, verdict=verdict), _SLOTS)
    described = machine.describe_machine(1, 0)
    with tempfile.TemporaryDirectory() as pictures, entry.open(model, given.size) as peer:
        studio = workloads.Studio(Path(pictures), SHAPES[given.size].sides)
        found = compare(ours, peer, studio, scale)
    version = f"{entry.recipe.package} {entry.recipe.version()}"
    return {
        "version": version,
        "flags": entry.flags,
        "limits": entry.limits,
        "ours": about,
        "repeats": scale.repeats,
        "requests": scale.requests,
        "machine": described,
        "workloads": found,
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="Peers beside our engine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    install = verbs.add_parser("install", help="make a peer's environment: minutes, and about 3 GB each")
    install.add_argument("name", choices=sorted(RECIPES))
    runs = verbs.add_parser("run", help="compare, and add rows to the engine's tables")
    runs.add_argument("name", choices=sorted(ENTRIES))
    runs.add_argument("--size", choices=sorted(SHAPES), default="tiny")
    runs.add_argument("--repeats", type=int)
    runs.add_argument("--requests", type=int)
    runs.add_argument("--out", type=Path, default=Path("bench/results"), metavar="DIR")
    runs.add_argument("--models", type=Path, default=Path("artifacts/bench"), metavar="DIR")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    given = parse(arguments)
    if given.verb == "install":
        RECIPES[given.name].set_up()
        return 0
    data = given.out / f"engine-{given.size}.json"
    if not data.is_file():
        tell(f"{data} is missing; run: python -m bench.engine --size {given.size}")
        return 2
    found = run(given.name, given)
    results = json.loads(data.read_text())
    results.setdefault("peers", {})[given.name] = found
    for path in write_results(results, given.out, data.stem):
        tell(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
