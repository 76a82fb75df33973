"""What was aimed for, and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: At the tiny size: multiples of the best static batch. Everywhere: ragged as a share of uniform, and slot occupancy.
RAGGED, UNIFORM, EVENNESS, OCCUPANCY = 2.0, 1.2, 0.85, 0.92
#: At the large size: multiples of vLLM's CPU build.
VLLM = 1.0
#: What our load is to reach, as a share of the rate at which the bytes alone can be read.
DISK = 0.7
#: The least that the remote engine may have of what the same server gives to a direct client.
DIRECT = 0.95
#: Milliseconds of server time that the median of an admin page may take.
PAGE_MS = 100.0
#: A long run's memory is flat where it grows by no more than this share of what is held; a run of 10,000 says so.
FLAT, LONG_RUN = 0.05, 10_000


@dataclass(frozen=True)
class Goal:
    """`found` is None where the run did not measure it. `least` says whether the target is a lower or upper limit."""

    name: str
    target: float
    found: float | None
    least: bool = True

    @property
    def met(self) -> bool | None:
        if self.found is None:
            return None
        return self.found >= self.target if self.least else self.found <= self.target


def judge(results: Mapping[str, Any], ours: list[str]) -> list[dict[str, Any]]:
    """Every goal that applies to the size of the run. `ours` are the names of the continuous engine's contestants."""
    goals = []
    if results["size"] == "tiny":
        goals.append(Goal("ragged, times the best static generate", RAGGED, _best_ratio(results, "ragged", ours)))
        goals.append(Goal("uniform, times the best static generate", UNIFORM, _best_ratio(results, "uniform", ours)))
    goals.append(Goal("ragged, as a share of uniform", EVENNESS, _evenness(results, ours)))
    shares = [entry["share"] for entry in results.get("occupancy", {}).values()]
    goals.append(Goal("mean slot occupancy under backlog", OCCUPANCY, min(shares, default=None)))
    answers = results.get("answers", {}).values()
    differing = sum(not place["tie"] for entry in answers for place in entry["differences"].values())
    goals.append(Goal("answers that differ other than at a tie", 0, differing if answers else None, least=False))
    goals.append(Goal(f"memory growth over {LONG_RUN:,} requests", FLAT, _growth(results), least=False))
    return [{**asdict(goal), "met": goal.met} for goal in goals]


def judge_peers(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """At the large size, not to be behind vLLM on any workload; and everywhere the same texts from every peer."""
    goals, differing = [], 0
    for name, peer in results["peers"].items():
        for workload, found in peer["workloads"].items():
            if name == "vllm" and results["size"] == "large":
                goals.append(Goal(f"{workload}, times vLLM on the CPU", VLLM, found["ratio"]))
            differing += sum(not place["tie"] for place in found["answers"]["differences"].values())
    goals.append(Goal("texts that differ other than at a tie", 0, differing, least=False))
    return [{**asdict(goal), "met": goal.met} for goal in goals]


def _best_ratio(results: Mapping[str, Any], workload: str, ours: list[str]) -> float | None:
    found = results.get("workloads", {}).get(workload, {}).get("ratios", {})
    return max((found[name] for name in ours if name in found), default=None)


def _evenness(results: Mapping[str, Any], ours: list[str]) -> float | None:
    """Of the contestant that is fastest on uniform work."""
    workloads = results.get("workloads", {})
    even, uneven = (workloads.get(name, {}).get("rates", {}) for name in ("uniform", "ragged"))
    both = [name for name in ours if name in even and name in uneven]
    if not both:
        return None
    best = max(both, key=lambda name: even[name]["median"])
    return float(uneven[best]["median"] / even[best]["median"])


def _growth(results: Mapping[str, Any]) -> float | None:
    memory = results.get("memory")
    if not memory or memory["requests"] < LONG_RUN:
        return None
    return float(memory["growth_mib"] / memory["resident_mib"][-1])
