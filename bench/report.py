"""Results as JSON and as a page of Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LIMITS = {
    "tiny": "A tiny model on a CPU measures what an engine adds around the arithmetic, not how fast its kernels are: "
    "nothing here says how any of these compare on a GPU or with a model of real size.",
    "large": "One CPU thread at float32 measures arithmetic, and how weights are laid out for it: nothing here says "
    "how any of these compare on a GPU, where memory and launches decide.",
}
_RATES = (
    "Tokens/s are per second of processor time, which on one otherwise idle core is the time it takes; other work on "
    "the machine still shares its caches."
)


def write_results(results: Mapping[str, Any], folder: Path, name: str) -> tuple[Path, Path]:
    """Write NAME.json and NAME.md into a folder, made where it is missing. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / f"{name}.json", folder / f"{name}.md"
    data.write_text(json.dumps(results, indent=2) + "\n")
    page.write_text(render(results))
    return data, page


def render(results: Mapping[str, Any]) -> str:
    """The page. Parts that were not measured are left out."""
    parts = [
        f"# Engine benchmark, {results['size']} model",
        _LIMITS[results["size"]],
        describe_setting(results),
        *_throughput(results),
        *_arrivals(results.get("arrivals", [])),
        *_occupancy(results.get("occupancy", {})),
        *_memory(results.get("memory")),
        *_answers(results.get("answers", {})),
        *list_goals(results.get("goals", [])),
        *list_sittings(results.get("sittings", [])),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> str:
    """A Markdown table. `words` are the columns of text; the others are aligned to the right."""
    lines = [" | ".join(head), " | ".join("---" if column in words else "---:" for column in range(len(head)))]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def number(value: float) -> str:
    """Three figures or so: 1,234, 56.7, 0.89."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def figure(entry: Mapping[str, float]) -> str:
    """A median with its range."""
    if entry["low"] == entry["high"]:
        return number(entry["median"])
    return f"{number(entry['median'])} ({number(entry['low'])}-{number(entry['high'])})"


def describe_setting(results: Mapping[str, Any]) -> str:
    """The machine, the versions and the model, and how figures were taken."""
    machine, model = results["machine"], results["model"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores of which {machine['cores_used']} used, "
        f"{machine['memory_gib']} GiB; {machine['system']}; "
        f"{machine['threads']} thread, {model['dtype']}; Python {machine['python']}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}; {model['parameters'] / 1e6:,.1f} million random parameters; "
        f"engine code {results['code']}. Runs were taken in turns; a figure is the median, with the least and the "
        "greatest where there were several."
    )


def _throughput(results: Mapping[str, Any]) -> list[str]:
    parts = []
    for name, workload in results.get("workloads", {}).items():
        rows = [
            [who, figure(rate), f"{workload['ratios'][who]:.2f}" if who in workload["ratios"] else ""]
            for who, rate in workload["rates"].items()
        ]
        best = workload["best_static"] or "the best static generate"
        repeats = max(rate["runs"] for rate in workload["rates"].values())
        parts.append(f"## {name}\n\n{workload['requests']} requests, {workload['about']}; {repeats} runs of each.")
        parts.append(table(["", "tokens/s", f"times {best}"], rows))
    if parts:
        who = [f"- {name}: {about}" for name, about in results["contestants"].items()]
        parts.append(_RATES + " Tokens count as far as they were asked for. The contestants:\n\n" + "\n".join(who))
    return parts


def _arrivals(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    if not entries:
        return []
    names = [f"{what}_p{share}_s" for what in ("first_token", "latency") for share in (50, 95, 99)]
    head = ["", "arriving", *[f"{what} p{share}" for what in ("first token", "end") for share in (50, 95, 99)]]
    rows = [
        [entry["contestant"], f"{number(entry['rate'])}/s: {entry['about']}", *[f"{entry[name]:.3f}" for name in names]]
        for entry in entries
    ]
    about = f"{entries[0]['requests']} ragged requests as a Poisson process; seconds from when each was due."
    return ["## Open arrivals\n\n" + about, table(head, rows)]


def _occupancy(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not entries:
        return []
    rows = [[name, f"{entry['share']:.3f}", str(entry["requests"])] for name, entry in entries.items()]
    return ["## Slot occupancy under a backlog of ragged requests", table(["", "mean share", "requests"], rows)]


def _memory(memory: Mapping[str, Any] | None) -> list[str]:
    if not memory:
        return []
    held, ended = memory["resident_mib"], memory["ended"]
    counts = f"{ended['cancelled']} of them cancelled and {ended['answered']} answered"
    about = (
        f"{memory['requests']:,} distinct requests through {memory['contestant']} in {memory['seconds']:,.0f} s, "
        f"{counts}: {held[0]:,.0f} MiB resident after the "
        f"first twentieth, {held[-1]:,.0f} MiB at the end; {memory['growth_mib']:+.1f} MiB from the first fifth to the "
        f"end. Caches were limited to {memory['cache_mib']} MiB each."
    )
    return ["## Memory over a long run\n\n" + about]


def _answers(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not entries:
        return []
    rows = []
    for name, entry in entries.items():
        places = entry["differences"].values()
        ties = sum(place["tie"] for place in places)
        note = f"{ties} of {len(places)} looked into differ where two scores are as good as equal" if places else ""
        rows.append([name, f"{entry['equal']} of {entry['of']}", note])
    about = "Greedy answers, token for token, over all runs, against the first contestant that answered a request."
    return ["## Equal answers\n\n" + about, table(["", "equal", ""], rows)]


def list_goals(goals: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of goals with its title, or nothing."""
    if not goals:
        return []
    words = {True: "met", False: "missed", None: "not measured"}
    rows = [
        [
            goal["name"],
            f"{'at least' if goal['least'] else 'at most'} {goal['target']:g}",
            "" if goal["found"] is None else f"{goal['found']:.3g}",
            words[goal["met"]],
        ]
        for goal in goals
    ]
    return ["## Goals", table(["", "goal", "found", ""], rows)]


def list_sittings(sittings: Sequence[Mapping[str, Any]]) -> list[str]:
    """When each part was taken, and how busy the machine was in the minute before."""
    if not sittings:
        return []
    rows = [
        [entry["part"], entry["date"], f"{entry['load_average']:.2f}", f"{entry['seconds']:,.0f}"] for entry in sittings
    ]
    return ["## When", table(["", "began", "load average before", "seconds"], rows)]
