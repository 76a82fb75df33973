"""The page on peers: JSON and Markdown tables, won or lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import describe_setting, figure, list_goals, list_sittings, table

_LIMITS = {
    "tiny": "A tiny model on a CPU measures what an engine adds around the arithmetic, not how fast its kernels are: "
    "nothing here says how these compare on a GPU or with a model of real size.",
    "large": "One CPU thread at float32 measures arithmetic above all, and the kernels that each engine brings for it: "
    "nothing here says how these compare on a GPU.",
}


def write(results: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write peers-SIZE.json and peers-SIZE.md into a folder, made where it is missing. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = (folder / f"peers-{results['size']}.{ending}" for ending in ("json", "md"))
    data.write_text(json.dumps(results, indent=2) + "\n")
    page.write_text(render(results))
    return data, page


def render(results: Mapping[str, Any]) -> str:
    """The page."""
    parts = [f"# Peers beside the continuous engine, {results['size']} model", _LIMITS[results["size"]]]
    parts.append(describe_setting(results))
    for name, peer in results["peers"].items():
        parts += _tell(name, peer)
    parts += [*list_goals(results.get("goals", [])), *list_sittings(results.get("sittings", []))]
    return "\n\n".join(parts) + "\n"


def _tell(name: str, peer: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            f"{workload}, {found['requests']} requests",
            figure(found["rates"]["peer"]),
            figure(found["rates"]["ours"]),
            f"{found['ratio']:.2f}",
            "won" if found["ratio"] > 1 else "lost",
            str(found["rates"]["peer"]["runs"]),
            f"{found['answers']['equal']} of {found['answers']['of']}",
            _count_ties(found["answers"]["differences"]),
        ]
        for workload, found in peer["workloads"].items()
    ]
    head = ["", f"{name}, tokens/s", "ours, tokens/s", "ours / peer", "we", "runs", "same text", ""]
    about = f"## {name}\n\n{peer['version']}: {peer['flags']}. Ours: {peer['ours']}, without HTTP."
    workloads = "; ".join(f"{workload}: {found['about']}" for workload, found in peer["workloads"].items())
    limits = f"What this does not show: {peer['limits']}"
    return [about, table(head, rows), f"Workloads: {workloads}. {limits}"]


def _count_ties(differences: Mapping[str, Mapping[str, Any]]) -> str:
    if not differences:
        return ""
    ties = sum(place["tie"] for place in differences.values())
    return f"{ties} of {len(differences)} differences looked into are ties of two scores"
