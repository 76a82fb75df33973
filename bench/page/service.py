"""What the benches of the service found: queue, HTTP, nights of documents, admin pages, faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.api import report as api_report
from bench.documents import report as documents_report
from bench.goals import PAGE_MS
from bench.page.entries import Compared, Goal, Section, Taken, read_parts, spread
from bench.queue import report as queue_report
from bench.report import number

Found = Mapping[str, Any]
_SHARED = "Postgres with fsync, Valkey, workers and the measuring process share the cores; engines are fake ones."


def read_queue(found: Found) -> Section:
    """queue.json."""
    compared = []
    if drain := found.get("drain"):
        ours, what = f"{number(drain['jobs_per_s'])} jobs/s", "end to end, results committed"
        alone = f"{number(drain['engine_alone_per_s'])} jobs/s"
        compared.append(Compared(what, ours, "the engine alone", alone, drain["share_of_engine_alone"], rival=False))
        for name in ("tasks", "batches"):
            if part := found.get(name):
                theirs = f"{number(part['jobs_per_s'])} jobs/s, {_tell_killed(part)}"
                times = drain["jobs_per_s"] / part["jobs_per_s"]
                compared.append(Compared(what, ours, part["about"], theirs, times))
    tables = []
    if part := found.get("submission"):
        rows = [[way, spread(rate), f"{part['ratios'][way]:.3f}"] for way, rate in part["rates"].items()]
        tables.append(("Submission", ["", "jobs/s", "of bare COPY"], rows))
    if part := found.get("waking"):
        rows = [
            [words, *(f"{part[key][name]:.0f}" for name in ("p50_ms", "p95_ms", "max_ms"))]
            for key, words in (("announced", "announced"), ("not_announced", f"poll floor {part['poll_s']:.0f} s"))
        ]
        tables.append(("Waking an idle worker, ms", ["", "p50", "p95", "longest"], rows))
    return Section(
        title="The queue",
        command="make bench-queue",
        about=_SHARED,
        limit="The engine alone in its process; for submissions a bare COPY of the same rows.",
        unmeasured="Servers on hosts of their own; more than one worker; disks other than this one.",
        taken=read_parts(found),
        compared=compared,
        goals=_judged(queue_report.judge(dict(found))),
        tables=tables,
        page="queue.md",
    )


def read_api(found: Found) -> Section:
    """api.json."""
    compared = []
    if part := found.get("service"):
        ours, ceiling = (f"{number(part[name])} pages/s" for name in ("pages_per_s", "ceiling_per_s"))
        what = f"the whole service, {part['pages']:,} pages of {part['page_kb']:,} kB"
        compared.append(Compared(what, ours, "its engines", ceiling, part["share_of_ceiling"], rival=False))
    for row in found.get("submission", {}).get("rows", []):
        ours, bare = (spread(row[who]["per_s"], "/s") for who in ("ours", "bare"))
        what = f"POST /v1/jobs, clients: {row['clients']}"
        compared.append(Compared(what, ours, "a bare Flask route", bare, row["of_bare"], rival=False))
    if part := found.get("batch"):
        times, what = part["copy_s"] / part["seconds"], f"a batch of {part['lines']:,} lines"
        ours, copy = f"{number(part['seconds'])} s", f"{number(part['copy_s'])} s"
        compared.append(Compared(what, ours, "COPY of the same rows", copy, times, rival=False))
    costs = found.get("service", {}).get("cpu_ms_a_page", {})
    rows = [[name, number(value)] for name, value in costs.items()]
    return Section(
        title="The HTTP API and the whole service",
        command="make bench-api",
        about=_SHARED,
        limit="The engines' own rate; for a submission a Flask route that reads its JSON and answers.",
        unmeasured="TLS and a proxy in front; clients on other hosts; more clients than these.",
        taken=read_parts(found),
        compared=compared,
        goals=_judged(api_report.judge(dict(found))),
        tables=[("CPU a page, ms", ["", "ms"], rows)] if rows else [],
        page="api.md",
    )


def read_documents(found: Found) -> Section:
    """documents.json."""
    compared, rows = [], []
    if night := found.get("night"):
        ours, ceiling = (f"{number(night[name])} pages/s" for name in ("pages_per_s", "engine_pages_per_s"))
        what = f"a night of {night['documents']:,} documents, {night['pages']:,} pages"
        compared.append(Compared(what, ours, "its engines", ceiling, night["share_of_engine"], rival=False))
        rows = [[f"{name}, ms a page", number(value)] for name, value in night["cpu_ms_a_page"].items()]
        rows.append(["the same again, nothing changed, ms a document", number(night["again_cpu_ms_a_document"])])
    if listing := found.get("listing"):
        rows.append([f"{listing['listed']:,} pages listed, pages/s", number(listing["entries_per_s"])])
        rows.append(["most memory of the CPU worker that lists, MiB", number(listing["rss_most_mib"])])
    return Section(
        title="A night of documents",
        command="make bench-documents",
        about=_SHARED,
        limit="The engines' own rate, which is set to what these cores can render.",
        unmeasured="Buckets over a network; scans of hundreds of pages; two million pages read, not only listed.",
        taken=read_parts(found),
        compared=compared,
        goals=_judged(documents_report.judge(dict(found))),
        tables=[("Costs", ["", ""], rows)] if rows else [],
        page="documents.md",
    )


def read_admin(found: Found) -> Section:
    """admin.json."""
    lists = [row for row in found["rows"] if row["goal"]]
    slowest = sorted(lists, key=lambda row: -row["median_ms"])[:5]
    rows = [[row["name"], *(number(row[name]) for name in ("least_ms", "median_ms", "p95_ms"))] for row in slowest]
    worst = max(row["median_ms"] for row in lists)
    return Section(
        title="The admin pages",
        command="make bench-admin",
        about=f"{found['jobs']:,} jobs in thirty partitions, {found['size_gib']:.1f} GiB of database; {len(lists)} "
        f"lists, {found['repeats']} times each.",
        limit="None was taken beside them: the goal is a time.",
        unmeasured="The browser; the network; a cold cache of the operating system; many viewers at once.",
        taken=[Taken("all", found.get("machine", {}))],
        goals=[
            Goal("median of the slowest list", f"at most {PAGE_MS:.0f} ms", f"{number(worst)} ms", worst <= PAGE_MS)
        ],
        tables=[("The five slowest, ms", ["", "least", "median", "p95"], rows)],
        page="admin.md",
    )


def read_tuning(found: Found) -> Section:
    """tuning.json."""
    rows = [
        [
            f"beside {way['busy']} busy processes" if way["busy"] else "alone", way["way"],
            number(median(way["steps_per_s"])),
            f"{median(way['ratios']):.2f} ({min(way['ratios']):.2f} to {max(way['ratios']):.2f})",
        ]
        for way in found["ways"]
    ]  # fmt: skip
    return Section(
        title="Tuning of a worker",
        command="make bench-tuning",
        about=f"Steps over 64 MiB of float32 weights on a CPU, {found['rounds']} rounds in which the ways take turns; "
        "ratios are to one thread of the same round and load.",
        limit="None was taken beside them: each way stands beside one thread.",
        unmeasured="Several NUMA nodes; GPUs; SMT siblings; real traffic.",
        taken=[Taken("all", found.get("machine", {}))],
        tables=[("Steps a second", ["load", "way", "steps/s, median", "ratio"], rows)],
        page="tuning.md",
    )


def read_chaos(parts: Sequence[Found]) -> Section:
    """chaos/SEED.json, all of them."""
    faults = Counter({name: 0 for part in parts for name in part["faults"]})
    for part in parts:
        faults.update(part["faults"])
    clean = sum(not part["problems"] for part in parts)
    jobs, accepted = (sum(part[name] for part in parts) for name in ("jobs", "submissions"))
    ledger = f"{clean} of {len(parts)} parts clean"
    return Section(
        title="Faults on purpose",
        command="make chaos-mix",
        about=f"{jobs:,} jobs of {accepted:,} acknowledged submissions under {faults.total()} faults, {len(parts)} "
        "seeded parts. It counts what is lost or done twice, and is no measure of speed.",
        limit="Zero: no job lost, none with two results.",
        unmeasured="Faults on several hosts; disks that lie about fsync; weeks at a time.",
        taken=[Taken(f"seed {part['seed']}", part.get("machine", {})) for part in parts],
        goals=[Goal("each part's ledger clean", f"{len(parts)} of {len(parts)}", ledger, clean == len(parts))],
        tables=[("Faults", ["", "times"], [[name, str(count)] for name, count in sorted(faults.items())])],
        page="chaos.md",
    )


def _tell_killed(part: Found) -> str:
    killed = part["killed"]
    return (
        f"{killed['without_result']} of {killed['jobs']:,} without result {killed['watched_s']:.0f} s after a kill -9"
    )


def _judged(rows: Sequence[tuple[str, str, str, bool]]) -> list[Goal]:
    return [Goal(*row) for row in rows]
