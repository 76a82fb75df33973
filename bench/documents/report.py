"""The figures as JSON and as a page: each goal beside what was measured, won or lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.parts import render_goals, render_machines

_INTRO = (
    "# What a night of documents costs\n\n"
    "By `make bench-documents`. Postgres (fsync on), Valkey, workers and the measuring process share the machine's "
    "cores; engines are fake ones at a set rate. Rendering scales with cores: on two of them the engines are set to "
    "what those can render, and what a page costs is given below.\n\n"
)


def write(folder: Path, found: dict[str, Any]) -> None:
    """Write documents.json and documents.md anew."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "documents.json").write_text(json.dumps(found, indent=1) + "\n")
    notes = folder / "documents-notes.md"
    sections = [_INTRO, render_goals(judge(found)), notes.read_text() + "\n" if notes.exists() else ""]
    described = {"night": _night, "listing": _listing, "interactive": _interactive}
    sections += [describe(found[name]) for name, describe in described.items() if name in found]
    sections.append(render_machines(found))
    (folder / "documents.md").write_text("".join(sections))


def judge(found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(what, goal, measured, met) of each goal whose part was run."""
    rows = []
    if night := found.get("night"):
        share, again = night["share_of_engine"], night["again_cpu_ms_a_document"]
        what = f"{night['pages']:,} pages of {night['documents']:,} documents, of the engines' own rate"
        rows.append((what, "at least 0.95", f"{share:.3f} ({night['pages_per_s']:.2f}/s)", share >= 0.95))
        what = "the same again, nothing changed: CPU a document, all processes"
        rows.append((what, "at most 1 ms", f"{again:.2f} ms", again <= 1))
    if listing := found.get("listing"):
        first, entries = listing["first_answer_s"], listing["entries"]
        shown = "none came" if first is None else f"{first:.1f} s"
        rows.append(
            (f"first answer of {entries:,} listed pages", "within 60 s", shown, first is not None and first <= 60)
        )
    if asked := found.get("interactive"):
        for name, word in (("first", "first token"), ("end", "end")):
            ratio = asked[f"{name}_ratio_p99"]
            rows.append((f"interactive p99 during a night, {word}, of idle", "at most 2", f"{ratio:.2f}", ratio <= 2))
    return rows


def _night(found: dict[str, Any]) -> str:
    lines = ["## The night", "", "| | |", "|---|---|"]
    lines += [
        f"| documents, pages, MiB | {found['documents']:,}, {found['pages']:,}, {found['mib']:,} |",
        f"| both engines together | {found['engine_pages_per_s']:.1f} pages/s |",
        f"| from the declaration to the first answer | {found['first_answer_s']:.1f} s |",
        f"| to the end, shards and report written | {found['seconds']:.0f} s |",
    ]
    lines += [f"| {name}, CPU a page | {ms:.1f} ms |" for name, ms in found["cpu_ms_a_page"].items()]
    lines += [
        f"| again, nothing changed | {found['again_s']:.1f} s, {found['again_skipped']:,} skipped |",
        f"| of that the CPU worker's own, a document | {found['again_cpu_worker_ms_a_document']:.2f} ms |",
        f"| bytes it read, sockets too | {found['again_mib_read_by_cpu_worker']:.1f} MiB of {found['mib']:,} |",
    ]
    return "\n".join(lines) + "\n\n"


def _listing(found: dict[str, Any]) -> str:
    return (
        f"## Many pages\n\n{found['entries']:,} pages of a folder were listed in {found['listed_s']:,.0f} s "
        f"({found['entries_per_s']:,}/s) by a CPU worker that grew from {found['rss_before_mib']} to at most "
        f"{found['rss_most_mib']} MiB.\n\n"
    )


def _interactive(found: dict[str, Any]) -> str:
    lines = [
        "## Questions during a night",
        "",
        "| | idle p50 | idle p99 | night p50 | night p99 |",
        "|---|---|---|---|---|",
    ]
    for name, word in (("first", "first token"), ("end", "end")):
        times = [f"{found[f'{name}_{when}_{p}_ms']:,} ms" for when in ("idle", "night") for p in ("p50", "p99")]
        lines.append(f"| {word} | {' | '.join(times)} |")
    return "\n".join(lines) + f"\n\n{found['requests']} questions each, one engine of {found['slots']} slots.\n\n"
