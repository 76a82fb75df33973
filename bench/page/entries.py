"""What a results file is read into, whatever its shape: tables, comparisons, goals, and on what it was taken."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.report import number

NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Taken:
    """A part of a bench, and on what it was taken: what `bench.machine` found, as far as it is there."""

    part: str
    machine: Mapping[str, Any]

    def cells(self) -> list[str]:
        """Part, date, load average, processor and memory, system, versions."""
        found = self.machine
        used = f", {found['cores_used']} used" if "cores_used" in found else ""
        cores = f", {found['cores']} cores{used}" if "cores" in found else ""
        memory = f", {found['memory_gib']} GiB" if "memory_gib" in found else ""
        versions = ", ".join(f"{name} {found[name]}" for name in ("python", "torch", "transformers") if name in found)
        load = found.get("load_average", found.get("load average"))
        return [
            self.part,
            str(found.get("date", NOT_RECORDED))[:16].replace("T", " "),
            NOT_RECORDED if load is None else f"{load:.2f}",
            f"{found['cpu']}{cores}{memory}" if "cpu" in found else NOT_RECORDED,
            str(found.get("system", NOT_RECORDED)),
            versions or NOT_RECORDED,
        ]


def group_taken(taken: Sequence[Taken]) -> list[list[str]]:
    """The rows of `taken`, one for each machine: parts, dates and loads of the same one stand together, in order."""
    rows: dict[tuple[str, ...], list[list[str]]] = {}
    for one in taken:
        *own, cpu, system, versions = one.cells()
        rows.setdefault((cpu, system, versions), []).append(own)
    return [[*(_join(column) for column in zip(*own, strict=True)), *machine] for machine, own in rows.items()]


def _join(cells: Sequence[str]) -> str:
    return cells[0] if len(set(cells)) == 1 else "; ".join(cells)


@dataclass(frozen=True)
class Goal:
    """`met` is None where the run did not measure it."""

    what: str
    goal: str
    found: str
    met: bool | None


@dataclass(frozen=True)
class Compared:
    """Ours beside something of the same run. `times` is ours as a multiple of it, such that more is better for us.

    `rival`: another way to do the same, which wins below 1. Otherwise it is the limit that ours approaches from below.
    """

    what: str
    ours: str
    beside: str
    theirs: str
    times: float
    rival: bool = True

    @property
    def lost(self) -> bool:
        return self.rival and self.times < 1

    def cells(self, *, ranges: bool = True) -> list[str]:
        """What, ours, the other, its figure, and the ratio with who wins or is the limit; medians alone if asked so."""
        shown = f"{self.times:.3f}" if self.times < 0.01 else f"{self.times:.2f}"
        figures = [one if ranges else re.sub(r" \([^()]* to [^()]*\)$", "", one) for one in (self.ours, self.theirs)]
        told = f"**{shown}, behind**" if self.lost else shown if self.rival else f"{shown} of the limit"
        return [self.what, figures[0], self.beside, figures[1], told]


@dataclass(frozen=True)
class Section:
    """A bench on the page. `limit` says what its figures approach, `unmeasured` what nobody knows yet."""

    title: str
    command: str
    about: str
    limit: str
    unmeasured: str
    taken: list[Taken] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    #: Title, head, rows.
    tables: list[tuple[str, list[str], list[list[str]]]] = field(default_factory=list)
    #: The bench's own page, below bench/results/.
    page: str = ""


def spread(entry: Mapping[str, float], unit: str = "") -> str:
    """A median with its range and the number of runs."""
    told = f"{number(entry['median'])}{unit}"
    if entry["low"] != entry["high"]:
        told += f" ({number(entry['low'])} to {number(entry['high'])})"
    return told


def read_goals(goals: list[dict[str, Any]]) -> list[Goal]:
    """Goals as `bench.goals` stores them."""
    return [
        Goal(
            goal["name"],
            f"{'at least' if goal['least'] else 'at most'} {goal['target']:g}",
            "" if goal["found"] is None else f"{goal['found']:.4g}",
            goal["met"],
        )
        for goal in goals
    ]


def read_parts(found: Mapping[str, Any]) -> list[Taken]:
    """When and where each part of a bench made of parts was taken."""
    small = {name: " (small sizes, says nothing)" if part.get("small") else "" for name, part in found.items()}
    return [Taken(name + small[name], part.get("machine", {})) for name, part in found.items()]
