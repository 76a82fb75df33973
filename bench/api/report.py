"""The figures as JSON and as a page: each goal beside what was measured, met or missed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.parts import render_goals, render_machines

_TITLE = "# What the HTTP API costs\n\n"
_INTRO = (
    "By `make bench-api`. Web server, Postgres (fsync on), Valkey, workers and the measuring clients share the "
    "machine's cores; the engines are the fake one. Each figure stands beside another of the same run.\n\n"
)


def write(folder: Path, found: dict[str, Any]) -> None:
    """Write api.json and api.md anew."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "api.json").write_text(json.dumps(found, indent=1) + "\n")
    sections = [_TITLE, _INTRO, render_goals(judge(found))]
    for name, describe in (
        ("submission", _submission), ("batch", _batch), ("waiting", _waiting), ("service", _service),
    ):  # fmt: skip
        if name in found:
            sections.append(describe(found[name]))
    sections.append(render_machines(found))
    (folder / "api.md").write_text("".join(sections))


def judge(found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(what, goal, measured, met) of each goal whose part was run."""
    rows = []
    if part := found.get("service"):
        share, cpu = part["share_of_ceiling"], part["cpu_ms_without_rendering"]
        what = (
            f"{part['pages']:,} pages of {part['page_kb']:,} kB by two engines, of their {part['ceiling_per_s']:.0f}/s"
        )
        rows.append((what, "at least 0.97", f"{share:.3f} ({part['pages_per_s']:.2f}/s)", share >= 0.97))
        rows.append(("CPU a page without opening pictures", "at most 60 ms", f"{cpu:.1f} ms", cpu <= 60))
    if part := found.get("waiting"):
        failed, worst = sum(row["failed"] for row in part["rows"]), max(row["max_ms"] for row in part["rows"])
        what = f"/healthz while up to {part['rows'][-1]['clients']} clients wait at {part['threads']} threads"
        rows.append((what, "always answers", f"{failed} failed, slowest {worst:,.0f} ms", failed == 0))
    if part := found.get("batch"):
        what = f"{part['lines']:,} lines of a batch: each is queued"
        rows.append((what, f"{part['lines']:,}", f"{part['queued']:,}", part["queued"] == part["lines"]))
    return rows


def _submission(part: dict[str, Any]) -> str:
    lines = [
        "## Submissions",
        "",
        "`POST /v1/jobs` with a text, beside a Flask route that reads its JSON and answers.",
        "",
    ]
    lines += [
        "| clients | ours/s | bare/s | ours of bare | p99 | p99 bare | p99 of bare |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in part["rows"]:
        cells = [
            f"{row['clients']}", _range(row["ours"]["per_s"]), _range(row["bare"]["per_s"]), f"{row['of_bare']:.3f}",
            f"{row['ours']['p99_ms']['median']:.1f} ms", f"{row['bare']['p99_ms']['median']:.1f} ms",
            f"{row['p99_of_bare']:.1f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n"


def _range(figure: dict[str, float]) -> str:
    return f"{figure['median']:,.0f} ({figure['low']:,.0f} to {figure['high']:,.0f})"


def _batch(part: dict[str, Any]) -> str:
    return (
        f"## A batch of {part['lines']:,} lines\n\nFrom the upload of {part['file_mib']} MiB to the last line in the "
        f"queue {part['seconds']:.1f} s ({part['lines_per_s']:,.0f} lines/s), of which the upload took "
        f"{part['upload_s']:.2f} s. COPY of the same rows in one transaction takes {part['copy_s']:.2f} s: the batch "
        f"takes {part['of_copy']:.1f} times as long. It reads and checks every line before it makes the first job, so "
        "that a bad file makes none.\n\n"
    )


def _waiting(part: dict[str, Any]) -> str:
    lines = ["## Waiting clients", ""]
    lines += [f"{part['threads']} threads, of which {part['budget']} may wait; /healthz is asked all the while.", ""]
    lines += ["| clients that wait | /healthz p50 | p99 | slowest | failed | waits held | answered at once |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in part["rows"]:
        times = " | ".join(f"{row[name]:.1f} ms" for name in ("p50_ms", "p99_ms", "max_ms"))
        held = f"{row['failed']} | {row['held']} | {row['answered_at_once']}"
        lines.append(f"| {row['clients']} | {times} | {held} |")
    return "\n".join(lines) + "\n\n"


def _service(part: dict[str, Any]) -> str:
    cpu = ", ".join(f"{name} {value:,.1f} ms" for name, value in part["cpu_ms_a_page"].items())
    return (
        f"## The whole service\n\n{part['pages']:,} pages were submitted over HTTP ({part['submitted_per_s']:.1f} a "
        f"second while others were opened, {part['opened_per_s']:.1f} a second until all were open), then two engines "
        f"drained them at {part['pages_per_s']:.2f} of {part['ceiling_per_s']:.0f} pages a second. CPU a page: {cpu}. "
        'The CPU worker opens, checks and writes anew each picture; "servers" are Postgres and Valkey.\n\n'
    )
