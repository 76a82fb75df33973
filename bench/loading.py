"""A cold start: our load of a big folder beside a plain `from_pretrained`, and beside reading the same bytes.

    python -m bench.loading [--gib 4] [--repeats 3] [--dtypes bfloat16 float32] [--out DIR] [--models DIR]

Each contestant runs in a process of its own, which imports its libraries, drops the folder from the page cache, looks
whether that bit, and then starts the clock. They take turns. A load ends when every page of every weight was met: a
model on a CPU that is mapped from its files has read nothing when `from_pretrained` returns. Writes loading.json and
loading.md. Ends with 1 where a goal was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure
from bench.goals import DISK as GOAL
from bench.machine import describe_machine
from bench.report import number, table
from workers.engine.residency import measure_resident
from workers.engine.warming import warm

#: More of the folder than this share in the page cache, and a run did not begin cold.
COLD = 0.01
BYTES, PARALLEL, PLAIN, OURS = "one reader", "many reads at once", "from_pretrained", "ours"
_PAGE, _CHUNK = 4096, 2**20


def evict(files: Sequence[Path]) -> float | None:
    """Drop files from the page cache, and say what share is there all the same; None where the kernel does not say."""
    for path in files:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return measure_resident(files)


def list_weights(folder: Path) -> list[Path]:
    """The weight files of a folder, by name."""
    return sorted(folder.glob("*.safetensors"))


def read_plainly(folder: Path, _: str) -> dict[str, Any]:
    """One file after the other, a MiB at a time."""
    buffer = bytearray(_CHUNK)
    for path in list_weights(folder):
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return {}


def read_ahead(folder: Path, _: str) -> dict[str, Any]:
    """As the engine reads ahead."""
    return dict(warm(list_weights(folder)).as_json())


def load_plainly(folder: Path, dtype: str) -> dict[str, Any]:
    """transformers alone."""
    import torch
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
    return {"met_bytes": meet(model)}


def load_ours(folder: Path, dtype: str) -> dict[str, Any]:
    """As a worker loads it, tokenizer and processor and all."""
    from workers.engine.loader import load_model
    from workers.engine.phases import Phases

    phases = Phases()
    loaded = load_model(folder, dtype=dtype, threads=len(os.sched_getaffinity(0)), phases=phases)
    return {"met_bytes": meet(loaded.model), "phases": phases.as_json()}


def meet(model: Any) -> int:
    """Touch each page of each weight once. Returns their bytes."""
    import torch

    total = 0
    for tensor in model.parameters():
        total += tensor.nbytes
        tensor.detach().view(-1).view(torch.uint8)[::_PAGE].sum()
    return total


CONTESTANTS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    BYTES: read_plainly,
    PARALLEL: read_ahead,
    PLAIN: load_plainly,
    OURS: load_ours,
}


def run_alone(name: str, folder: Path, dtype: str) -> dict[str, Any]:
    """One contestant, in this process."""
    if name in (PLAIN, OURS):
        from transformers import AutoModelForImageTextToText  # noqa: F401 - imported before the clock starts
        from transformers.utils.logging import disable_progress_bar

        import workers.engine.processing
        import workers.engine.weights  # noqa: F401

        disable_progress_bar()
    left = evict(list_weights(folder))
    began = time.perf_counter()
    found = CONTESTANTS[name](folder, dtype)
    return {"seconds": round(time.perf_counter() - began, 4), "resident_before": left, **found}


def run_apart(name: str, folder: Path, dtype: str) -> dict[str, Any]:
    """One contestant, in a process of its own. Raises RuntimeError."""
    command = [sys.executable, "-m", "bench.loading", "--alone", name, "--folder", str(folder), "--dtypes", dtype]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} ended with status {done.returncode}.")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(folder: Path, dtypes: Sequence[str], repeats: int) -> dict[str, Any]:
    """All contestants in turn, `repeats` times, the order turned by one each time."""
    plan = [(BYTES, "-"), (PARALLEL, "-"), *((name, dtype) for dtype in dtypes for name in (PLAIN, OURS))]
    runs: dict[str, list[dict[str, Any]]] = {_key(*step): [] for step in plan}
    for turn in range(repeats):
        first = turn % len(plan)
        for step in plan[first:] + plan[:first]:
            found = run_apart(step[0], folder, step[1])
            runs[_key(*step)].append(found)
            print(f"{_key(*step)}: {found['seconds']:.2f} s", flush=True)
    total = sum(path.stat().st_size for path in list_weights(folder))
    return {"bytes": total, "shards": len(list_weights(folder)), "dtypes": list(dtypes), "runs": runs}


def judge(found: dict[str, Any]) -> dict[str, Any]:
    """Rates in MiB/s, the disk's own among them, goals, and which runs did not begin cold."""
    mib = found["bytes"] / 2**20
    rates = {name: Figure.of([mib / run["seconds"] for run in runs]) for name, runs in found["runs"].items()}
    disk = max((BYTES, PARALLEL), key=lambda name: rates[name].median)
    shares = {dtype: rates[_key(OURS, dtype)].median / rates[disk].median for dtype in found["dtypes"]}
    warm_runs = [
        f"{name}, run {number}: {_show_share(run['resident_before'])}"
        for name, runs in found["runs"].items()
        for number, run in enumerate(runs, 1)
        if run["resident_before"] is None or run["resident_before"] > COLD
    ]
    return {
        "rates": {name: vars(figure) for name, figure in rates.items()},
        "disk": disk,
        "shares": {dtype: round(share, 3) for dtype, share in shares.items()},
        "times_plain": {
            dtype: round(rates[_key(OURS, dtype)].median / rates[_key(PLAIN, dtype)].median, 3)
            for dtype in found["dtypes"]
        },
        "met": {dtype: share >= GOAL for dtype, share in shares.items()},
        "not_cold": warm_runs,
    }


def _show_phases(results: dict[str, Any]) -> list[str]:
    """Where the time of our loads went: the median of each phase."""
    lines = []
    for dtype in results["dtypes"]:
        found = [run["phases"] for run in results["runs"][_key(OURS, dtype)] if "phases" in run]
        if found:
            parts = {name: Figure.of([one[name] for one in found]).median for name in ("start", "read", "copy")}
            shown = ", ".join(f"{name} {number(seconds)}" for name, seconds in parts.items())
            lines.append(f"Phases of ours in {dtype}, seconds: {shown}.")
    return lines


def _show_share(share: float | None) -> str:
    return "not known" if share is None else f"{share:.0%}"


def render(results: dict[str, Any]) -> str:
    """The page."""
    judged, machine = results["judged"], results["machine"]
    rows = []
    for name, runs in results["runs"].items():
        figure = judged["rates"][name]
        seconds = Figure.of([run["seconds"] for run in runs])
        spread = f"{number(figure['low'])} to {number(figure['high'])}"
        rows.append([name, number(seconds.median), number(figure["median"]), spread, str(figure["runs"])])
    goals = [
        [
            f"ours, {dtype}: share of the rate of {judged['disk']!r}",
            f"at least {GOAL}",
            number(share),
            "met" if judged["met"][dtype] else "**missed**",
        ]
        for dtype, share in judged["shares"].items()
    ]
    cold = "Every run began with at most 1 % of the folder in the page cache."
    if judged["not_cold"]:
        cold = "**These runs did not begin cold** (share in the page cache): " + "; ".join(judged["not_cold"]) + "."
    plain = ", ".join(f"{number(times)} times in {dtype}" for dtype, times in judged["times_plain"].items())
    setting = (
        f"A folder of {results['bytes'] / 2**30:.2f} GiB of bfloat16 in {results['shards']} shards, read from a disk: "
        "until every page of every weight was met. float32 is what a CPU computes in by default, and a conversion. "
        f"The other work of the machine shares disk and cores; load average {machine['load_average']} at the start. "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, torch {machine['torch']}, transformers "
        f"{machine['transformers']}."
    )
    parts = [
        "# Loading benchmark",
        setting,
        cold,
        table(["what", "seconds, median", "MiB/s, median", "range", "runs"], rows),
        f"Ours beside a plain `from_pretrained`: {plain}. Ours opens tokenizer and processor as well.",
        *_show_phases(results),
        "## Goals",
        table(["what", "goal", "measured", ""], goals),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    given = parse(arguments)
    if given.alone:
        print(json.dumps(run_alone(given.alone, given.folder, given.dtypes[0])))
        return 0
    folder = given.folder
    if folder is None:
        from bench.big_folder import build_folder

        folder = build_folder(given.models, given.gib)
    results = {"machine": describe_machine(1, 0), **measure(folder, given.dtypes, given.repeats)}
    results["judged"] = judge(results)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "loading.json").write_text(json.dumps(results, indent=2) + "\n")
    (given.out / "loading.md").write_text(render(results))
    print(render(results))
    return int(not all(results["judged"]["met"].values()))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.loading", description="Cold starts, compared.")
    parser.add_argument("--gib", type=float, default=4.0, help="size of the folder that is made; 0.02 shows it works")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--out", type=Path, default=Path("bench/results"), metavar="DIR")
    parser.add_argument(
        "--models", type=Path, default=Path("artifacts/bench"), metavar="DIR", help="made where missing"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="a model folder instead of one that is made")
    parser.add_argument("--alone", choices=tuple(CONTESTANTS), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _key(name: str, dtype: str) -> str:
    return name if dtype == "-" else f"{name}, {dtype}"


if __name__ == "__main__":
    sys.exit(main())
