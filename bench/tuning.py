"""What tuning of the host does to a model's steps on a CPU: threads, cores of one's own, priority, huge pages.

    python -m bench.tuning [--rounds 7] [--seconds 1.0] [--out DIR]

A step reads every weight of a small model once, as a decoding step does. The ways take turns, round after round, each
alone and beside busy processes, one a core; what is told is each round's ratio to the first way of the same load, so
that other work on the machine weighs on both. Nothing of the machine is changed: a process may be bound, reniced and
kept from huge pages for itself alone. Writes tuning.json and tuning.md.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.machine import describe_machine
from bench.report import table

#: Of the model: layers of this width, 64 MiB of float32 in all, more than a core's caches hold.
WIDTH, LAYERS, ROWS = 1024, 16, 4
_SPIN = "while True: pass"
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True)
class Way:
    """How a process computes. `core`: bound to the last one; `nice` and `fifo` need the right to it."""

    name: str
    threads: int = 1
    core: bool = False
    nice: int = 0
    fifo: bool = False
    huge: bool = False


WAYS = (
    Way("1 thread"),
    Way("2 threads", threads=2),
    Way("1 thread, bound to a core", core=True),
    Way("1 thread, Nice=-10", nice=-10),
    Way("1 thread, SCHED_FIFO", fifo=True),
    Way("1 thread, huge pages", huge=True),
)


@contextmanager
def in_this_way(way: Way) -> Iterator[None]:
    """Bind and rank this process and its threads, and put it back. Raises PermissionError where that is not allowed."""
    cores, rank = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    torch.set_num_threads(way.threads)
    with ExitStack() as undo:
        if way.core:
            undo.callback(os.sched_setaffinity, 0, cores)
            os.sched_setaffinity(0, {max(cores)})
        if way.nice:
            os.setpriority(os.PRIO_PROCESS, 0, way.nice)
            undo.callback(os.setpriority, os.PRIO_PROCESS, 0, rank)
        if way.fifo:
            undo.callback(os.sched_setscheduler, 0, os.SCHED_OTHER, os.sched_param(0))
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        yield


@contextmanager
def beside(count: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    spinning = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def make_step(*, huge: bool) -> Callable[[], None]:
    """A step over weights of its own, for which huge pages are asked, or refused."""
    size = LAYERS * WIDTH * WIDTH * 4
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    values = torch.frombuffer(room, dtype=torch.float32).normal_(std=WIDTH**-0.5)
    weights = values.view(LAYERS, WIDTH, WIDTH).unbind()
    rows = torch.randn(ROWS, WIDTH)

    def step() -> None:
        state = rows
        with torch.inference_mode():
            for weight in weights:
                state = torch.relu(state @ weight)

    return step


def read_huge_mib() -> int:
    """What of this process lies in huge pages, in MiB."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("AnonHugePages:"):
            return int(line.split()[1]) // 1024
    return 0


def count_rate(step: Callable[[], None], seconds: float) -> float:
    """Steps a second."""
    for _ in range(3):
        step()
    began, steps = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        step()
        steps += 1
    return steps / passed


def measure(rounds: int, seconds: float) -> tuple[list[dict[str, Any]], int]:
    """Each way beside each load: steps a second by round; ways that this user may not take are left out. And how many
    MiB of the weights lie in huge pages where that was asked for."""
    cores = len(os.sched_getaffinity(0))
    before_mib, steps = read_huge_mib(), {True: make_step(huge=True)}
    huge_mib, steps[False] = read_huge_mib() - before_mib, make_step(huge=False)
    rates: dict[tuple[int, str], list[float]] = {}
    for _ in range(rounds):
        for load in (0, cores):
            with beside(load):
                for way in WAYS:
                    if way.threads <= cores:
                        with suppress(PermissionError), in_this_way(way):
                            rates.setdefault((load, way.name), []).append(count_rate(steps[way.huge], seconds))
    ways = [
        {"busy": load, "way": name, "steps_per_s": found, "ratios": compare(found, rates[load, WAYS[0].name])}
        for (load, name), found in rates.items()
    ]
    return ways, huge_mib


def compare(found: Sequence[float], first: Sequence[float]) -> list[float]:
    """Round by round."""
    return [one / other for one, other in zip(found, first, strict=True)]


def render(results: dict[str, Any]) -> str:
    """The page."""
    about, lines = results["machine"], []
    for row in results["ways"]:
        ratios = sorted(row["ratios"])
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        busy = "alone" if not row["busy"] else f"beside {row['busy']} busy processes"
        rate = statistics.median(row["steps_per_s"])
        lines.append([busy, row["way"], f"{rate:,.0f}", f"{statistics.median(ratios):.2f}", spread])
    return (
        "# Tuning benchmark\n\n"
        f"Steps over {LAYERS * WIDTH * WIDTH * 4 // 2**20} MiB of float32 weights on a CPU, {results['rounds']} rounds "
        f"in which the ways take turns; ratios are to '{WAYS[0].name}' of the same round and load. {about['cores']} "
        f"cores, torch {about['torch']}, transparent huge pages: {results['huge_pages']}. Other work shared the "
        f"machine (load average {about['load_average']} at the start): 'alone' is without busy processes of the bench. "
        f"{results['huge_mib']} MiB of the weights of the last way lay in huge pages.\n\n"
        + table(["load", "way", "steps a second, median", "ratio, median", "ratio, range"], lines)
        + "\n\nNot measured here: several NUMA nodes, GPUs, SMT siblings, real traffic.\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.tuning", description="Host tuning, measured as ratios.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("bench/results"), metavar="DIR")
    given = parser.parse_args(arguments)
    about = describe_machine(0, 0)
    huge = _THP.read_text().partition("[")[2].partition("]")[0] if _THP.exists() else "not there"
    ways, huge_mib = measure(given.rounds, given.seconds)
    results = {"machine": about, "rounds": given.rounds, "seconds": given.seconds, "ways": ways}
    results |= {"huge_pages": huge, "huge_mib": huge_mib}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "tuning.json").write_text(json.dumps(results, indent=2) + "\n")
    (given.out / "tuning.md").write_text(render(results))
    print(render(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
