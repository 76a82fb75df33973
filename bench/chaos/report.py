"""bench/results/chaos.md: what was run, on what, and what the ledger said. Made of the parts' JSON, nothing by hand."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.chaos.mix import Part

HEAD = """# Faults on purpose: what was lost

Made by `make chaos`; repeat a row with `python -m bench.chaos --seed … --jobs … --faults …` and its seed, submissions
and faults. A part is a whole service of its own (web, beat, a CPU worker, three model workers with the fake engine,
embedded Postgres and Valkey), clients that submit over HTTP until they are acknowledged, and faults drawn from the
seed. The ledger at its end: every acknowledged submission is in exactly one terminal state; a success has exactly one
result row; the counters of tokens and jobs add up to the rows; no idempotency key made two jobs. Leases live 3 s here,
so that they run out while a fault lasts.

Beside the poison jobs of a part (two) a job may end quarantined where workers were killed each time it ran: the ledger
counts that as the one terminal state that it is.
"""


def save_part(folder: Path, part: Part, machine: dict[str, Any]) -> None:
    """Keep what a part found."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {one.name: getattr(part, one.name) for one in fields(part)}
    (folder / f"{part.seed}.json").write_text(json.dumps({**found, "machine": machine}, indent=1, sort_keys=True))


def write_report(folder: Path, path: Path) -> None:
    """Write the page from all the parts that lie in `folder`."""
    parts = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"), key=lambda file: int(file.stem))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(make_report(parts))


def make_report(parts: Sequence[dict[str, Any]]) -> str:
    """The page, as Markdown."""
    lines = [HEAD, *_list_totals(parts), "", *_list_parts(parts), "", *_list_faults(parts), "", *_list_states(parts)]
    if skipped := {name: reason for part in parts for name, reason in part["skipped"].items()}:
        lines += ["", "Skipped, because this machine could not:", ""]
        lines += [f"- {name}: {reason}" for name, reason in sorted(skipped.items())]
    if problems := [f"- seed {part['seed']}: {problem}" for part in parts for problem in part["problems"]]:
        lines += ["", "## What the ledger found", "", *problems]
    machine = parts[-1]["machine"] if parts else {}
    lines += ["", "Measured on " + ", ".join(f"{name} {value}" for name, value in machine.items()) + "."]
    return "\n".join(lines) + "\n"


def _list_totals(parts: Sequence[dict[str, Any]]) -> list[str]:
    def add(name: str) -> int:
        return sum(part[name] for part in parts)

    faults = sum(sum(part["faults"].values()) for part in parts)
    clean = sum(not part["problems"] for part in parts)
    head = (
        f"**{add('jobs'):,} jobs of {add('submissions'):,} acknowledged submissions, {faults} faults, "
        f"{len(parts)} parts; the ledger of {clean} of them is clean.**"
    )
    return [
        head,
        "",
        f"{add('fenced'):,} writes of zombies were refused; {add('commits_cut'):,} commits lost their connection;",
        f"{add('landed'):,} rows of unanswered commits were found to have been written; {add('lost'):,} tries ended",
        f"with a lost worker; {add('replays'):,} submissions were sent again and got what the first one had made.",
    ]


def _list_parts(parts: Sequence[dict[str, Any]]) -> list[str]:
    head = ["seed", "submissions", "jobs", "faults", "succeeded", "quarantined", "zombie writes refused",
            "unanswered commits that landed", "lost tries", "answers 503", "replays", "process ends", "seconds",
            "ledger"]  # fmt: skip
    rows = [
        [
            part["seed"], f"{part['submissions']:,}", f"{part['jobs']:,}", sum(part["faults"].values()),
            f"{part['states'].get('succeeded', 0):,}",
            part["states"].get("quarantined", 0), part["fenced"], part["landed"], part["lost"], part["refused"],
            part["replays"], part["restarts"], round(part["seconds"]), "NOT CLEAN" if part["problems"] else "clean",
        ]
        for part in parts
    ]  # fmt: skip
    return _table(head, rows)


def _list_faults(parts: Sequence[dict[str, Any]]) -> list[str]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part["faults"])
    return _table(["fault", "times"], [[name, number] for name, number in sorted(total.items())])


def _list_states(parts: Sequence[dict[str, Any]]) -> list[str]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part["states"])
    return _table(["end of a job", "jobs"], [[name, f"{number:,}"] for name, number in sorted(total.items())])


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [list(head), ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in row) + " |" for row in cells]
