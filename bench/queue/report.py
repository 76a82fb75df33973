"""The figures as JSON and as a page: each goal beside what was measured, won or lost.

What a person has to say of them is kept beside them in queue-notes.md, and shown below the goals.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.parts import render_goals, render_machines

_TITLE = "# What the queue costs\n\n"
_INTRO = (
    "By `make bench-queue`. Postgres (fsync on), Valkey, workers and the measuring process share the machine's cores; "
    "the engine is the fake one, 256 slots and 100 ms a job. A vision-language model answers tens of jobs a second "
    "and card: these figures guard against regressions, and say nothing of how fast pages are read.\n\n"
)


def write(folder: Path, found: dict[str, Any]) -> None:
    """Write queue.json and queue.md anew."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "queue.json").write_text(json.dumps(found, indent=1) + "\n")
    notes = folder / "queue-notes.md"
    sections = [_TITLE, _INTRO, render_goals(judge(found)), notes.read_text() + "\n" if notes.exists() else ""]
    described = {"submission": _submission, "claims": _claims, "waking": _waking, "recovery": _recovery}
    for name, describe in described.items():
        if name in found:
            sections.append(describe(found[name]))
    if {"tasks", "batches"} & found.keys():
        sections.append(_contenders(found))
    sections.append(render_machines(found))
    (folder / "queue.md").write_text("".join(sections))


def judge(found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(what, goal, measured, met) of each goal whose part was run."""
    rows = []
    if drain := found.get("drain"):
        share, cpu = drain["share_of_nominal"], drain["queue_cpu_us"]
        what = f"{drain['jobs']:,} jobs end to end, results committed, of the engine's {drain['nominal_per_s']:,.0f}/s"
        rows.append((what, "at least 0.9", f"{share:.2f} ({drain['jobs_per_s']:,.0f}/s)", share >= 0.9))
        what = "queue CPU a job in the worker (worker less engine alone)"
        rows.append((what, "at most 150 µs", f"{cpu:.0f} µs", cpu <= 150))
    if claims := found.get("claims"):
        what = f"claim of {claims['rows_a_claim']}, {claims['rows']:,} rows of {claims['tenants']} tenants wait, p95"
        rows.append((what, "at most 5 ms", f"{claims['p95_ms']:.1f} ms", claims["p95_ms"] <= 5))
    if recovery := found.get("recovery"):
        limit = recovery["lease_ttl_s"] + 10
        what = f"kill -9 with {recovery['held_at_kill']} jobs held, nobody reports it: last result after"
        met = recovery["seconds"] <= limit and not recovery["lost"]
        rows.append((what, f"at most {limit:.0f} s", f"{recovery['seconds']:.1f} s, {recovery['lost']} lost", met))
    return rows


def _submission(part: dict[str, Any]) -> str:
    lines = ["## Submission", "", "| way | jobs/s, median (least to most) | of bare COPY |", "|---|---|---|"]
    for name, rate in part["rates"].items():
        spread = f"{rate['median']:,.0f} ({rate['low']:,.0f} to {rate['high']:,.0f})"
        lines.append(f"| {name} | {spread} | {part['ratios'][name]:.3f} |")
    return "\n".join(lines) + "\n\n"


def _claims(part: dict[str, Any]) -> str:
    lines = [f"## A claim of {part['rows_a_claim']} from {part['rows']:,} rows", "", "| | p50 | p95 |", "|---|---|---|"]
    for key, name in (("", "from call to commit"), ("core_", "of that on a core, here and in Postgres")):
        lines.append(f"| {name} | {part[f'{key}p50_ms']:.1f} ms | {part[f'{key}p95_ms']:.1f} ms |")
    lines += ["", "What is over is waiting: for the disk, for each other, and for a core that something else has."]
    return "\n".join(lines) + "\n\n"


def _waking(part: dict[str, Any]) -> str:
    lines = ["## Waking an idle worker", "", "From the job's insert to its claim.", ""]
    lines += ["| | p50 | p95 | longest |", "|---|---|---|---|"]
    names = {"announced": "announced in Redis", "not_announced": f"not announced, poll floor {part['poll_s']:.0f} s"}
    for key, name in names.items():
        one = part[key]
        lines.append(f"| {name} | {one['p50_ms']:.0f} ms | {one['p95_ms']:.0f} ms | {one['max_ms']:.0f} ms |")
    return "\n".join(lines) + "\n\n"


def _recovery(part: dict[str, Any]) -> str:
    return (
        f"## Recovery\n\n{part['held_at_kill']} jobs were held when the worker was killed; {part['given_back']} were "
        f"given back when its lease of {part['lease_ttl_s']:.0f} s had passed, {part['results']} of {part['jobs']} "
        "have a result.\n\n"
    )


def _contenders(found: dict[str, Any]) -> str:
    lines = ["## Two other ways, same servers, 100 ms a job", "", "| way | jobs/s | worker CPU a job | after kill -9 |"]
    lines.append("|---|---|---|---|")
    if drain := found.get("drain"):
        lost = found.get("recovery", {}).get("lost", "not run")
        lines.append(
            f"| ours: leases in Postgres, 256 slots | {drain['jobs_per_s']:,.0f} | {drain['worker_cpu_us']:,.0f} µs "
            f"(engine {drain['engine_cpu_us']:,.0f}) | {lost} without result |"
        )
    for name in ("tasks", "batches"):
        if part := found.get(name):
            killed = part["killed"]
            after = (
                f"{killed['without_result']} of {killed['jobs']} without result {killed['watched_s']:.0f} s after the "
                f"last, {killed['done_twice']} done twice"
            )
            lines.append(f"| {part['about']} | {part['jobs_per_s']:,.0f} | {part['worker_cpu_us']:,.0f} µs | {after} |")
    lines += [""]
    lines.append(
        "Celery hands an unacknowledged message out again after the visibility timeout, an hour unless told otherwise; "
        "what is missing here may come back then. At the rates of a real model the three do not differ in speed."
    )
    return "\n".join(lines) + "\n\n"
