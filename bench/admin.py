"""The admin pages before a month of jobs: what each list and each filter costs the server.

    python -m bench.admin [--jobs 5000000] [--repeats 20] [--home DIR]

Loads the jobs by COPY into an embedded Postgres of its own, in thirty partitions, then asks for each page with Flask's
client in this process: parsing, SQL and templates, without a network. Writes bench/results/admin.json and admin.md.
Ends with 1 where a page takes longer than the goal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import machine
from bench.admin_rows import Month, load, read_now
from bench.goals import PAGE_MS as GOAL_MS
from bench.report import number, table

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Row:
    """One page: milliseconds, the least, the middle one and the one that 19 of 20 stay below. `refused` of the requests
    were answered with an error; they count as infinitely long. `goal`: whether the page is held to it."""

    name: str
    address: str
    refused: int
    least_ms: float
    median_ms: float
    p95_ms: float
    goal: bool = True


@contextmanager
def open_service(home: Path) -> Iterator[Context]:
    """An embedded Postgres and Valkey, migrated, and a context before them."""
    from batchinfer.services.context import open_context
    from batchinfer.settings import load_settings
    from batchinfer.stack.postgres import EmbeddedPostgres
    from batchinfer.stack.valkey import EmbeddedValkey
    from batchinfer.store.migrate import upgrade

    postgres, valkey = EmbeddedPostgres(home), EmbeddedValkey(home)
    with ExitStack() as stack:
        stack.callback(valkey.stop)
        stack.callback(postgres.stop)
        valkey.launch()
        postgres.start()
        valkey.wait_ready()
        upgrade(postgres.url)
        context = open_context(load_settings(home=home, database_url=postgres.url, redis_url=valkey.url))
        stack.callback(context.close)
        yield context


def sign_in(context: Context) -> FlaskClient:
    """A browser of the default tenant."""
    from flask import Flask

    from batchinfer.admin import register_admin
    from batchinfer.services.keys import create_key, ensure_default_tenant

    ensure_default_tenant(context)
    app = Flask("bench")
    register_admin(app, context)
    client = app.test_client()
    answer = client.post("/admin/sign-in", data={"key": create_key(context, "bench")[1]})
    if answer.status_code != 303:
        raise RuntimeError(f"signing in answered {answer.status_code}")
    return client


def list_addresses(client: FlaskClient, month: Month) -> list[tuple[str, str]]:
    """(name, address) of every page of the menu, and of the list of jobs by each filter and far down."""
    from batchinfer.admin.nav import list_entries
    from batchinfer.domain.ids import BATCH, DOCUMENT, JOB, show_id

    with client.application.test_request_context("/admin/"):
        pages = [(f"menu: {entry.text}", entry.address) for entry in list_entries()]
    middle = month.now - timedelta(days=15)
    half, last = month.sampled[len(month.sampled) // 2], month.sampled[1]
    span = f"from={middle:%Y-%m-%dT%H:%M}&to={middle + timedelta(hours=6):%Y-%m-%dT%H:%M}"
    filters = {
        **{f"state {state}": f"state={state}" for state in (
            "preparing", "queued", "running", "succeeded", "failed", "cancelled", "expired", "quarantined")},
        "model, most of them": "model=reader",
        "model, one in a thousand": "model=stamps",
        "model and failed": "model=stamps&state=failed",
        "model and succeeded": "model=stamps&state=succeeded",
        "model and queued": "model=stamps&state=queued",
        "class interactive": "class=interactive",
        "class and failed": "class=interactive&state=failed",
        "document": f"document={show_id(DOCUMENT, month.documents[len(month.documents) // 2])}",
        "batch": f"batch={show_id(BATCH, month.batches[len(month.batches) // 2])}",
        "batch and failed": f"batch={show_id(BATCH, month.batches[len(month.batches) // 2])}&state=failed",
        "batch and custom_id": f"batch={show_id(BATCH, month.batches[0])}&custom_id=page-77",
        "custom_id": "custom_id=page-77",
        "six hours of a day": span,
        "six hours, failed": f"{span}&state=failed",
        "metadata, half of them": "metadata=shift%3Dnight",
        "metadata, one in a thousand": "metadata=needle%3Dyes",
        "metadata, none": "metadata=needle%3Dno",
        "text that many have": "q=invoice",
        "text that none has": "q=unheard-of",
        "text that none has, six hours": f"q=unheard-of&{span}",
        "half way down": f"after={show_id(JOB, half)}",
        "the oldest": f"after={show_id(JOB, last)}",
        "half way up": f"before={show_id(JOB, half)}",
        "failed, half way down": f"state=failed&after={show_id(JOB, half)}",
        "model, half way down": f"model=stamps&after={show_id(JOB, half)}",
        "text that none has, half way down": f"q=unheard-of&after={show_id(JOB, half)}",
    }  # fmt: skip
    lists = [(f"jobs: {name}", f"/admin/jobs?{query}") for name, query in filters.items()]
    return [*pages, *lists, ("acts on many jobs", "/admin/acts"), ("one job", f"/admin/jobs/{show_id(JOB, half)}")]


def list_counts() -> list[tuple[str, str]]:
    """(name, address) of questions that count exactly: not held to the goal."""
    return [
        ("count: all that failed", "/admin/acts/new?reach=all&verb=retry&state=failed"),
        ("count: all that wait", "/admin/acts/new?reach=all&verb=cancel&state=queued"),
        ("count: a rare model", "/admin/acts/new?reach=all&verb=delete&model=stamps"),
        ("count: everything", "/admin/acts/new?reach=all&verb=delete"),
    ]


def measure(client: FlaskClient, name: str, address: str, repeats: int, *, goal: bool = True) -> Row:
    """One page, `repeats` times after one that warms up. A count may be refused as too long: 400."""
    spent = []
    for turn in range(repeats + 1):
        began = time.perf_counter()
        answer = client.get(address)
        ms = (time.perf_counter() - began) * 1000
        if answer.status_code != 200 and (goal or answer.status_code != 400):
            print(f"{address} answered {answer.status_code}", flush=True)
            ms = float("inf")
        if turn:
            spent.append(ms)
    spent.sort()
    refused, p95 = spent.count(float("inf")), spent[min(len(spent) - 1, int(len(spent) * 0.95))]
    row = Row(name, address, refused, spent[0], statistics.median(spent), p95, goal)
    print(f"{row.least_ms:9.1f} least {row.median_ms:9.1f} ms  p95 {row.p95_ms:9.1f}  {name}", flush=True)
    return row


def render(results: dict[str, Any]) -> str:
    """The page."""
    about = results["machine"]
    lists = [row for row in results["rows"] if row["goal"]]
    counts = [row for row in results["rows"] if not row["goal"]]
    missed = [row for row in lists if row["median_ms"] > GOAL_MS]
    verdict = "Every page is below it." if not missed else f"{len(missed)} of {len(lists)} pages are above it."

    def show(rows: list[dict[str, Any]]) -> str:
        return table(
            ["", "least, ms", "median, ms", "p95, ms"],
            [[row["name"], *(number(row[name]) for name in ("least_ms", "median_ms", "p95_ms"))] for row in rows],
        )

    told = (
        f"{results['jobs']:,} jobs in thirty partitions, {results['size_gib']:.1f} GiB of database, loaded by COPY in "
        f"{results['load_s']:,.0f} s. Server time of a page with Flask's client: {results['repeats']} times each after "
        f"one that warms up. The goal is a median of {GOAL_MS:.0f} ms. {verdict}"
    )
    parts = ["# The admin pages before a month of jobs", told, show(lists)]
    parts += [
        "Questions before an act count exactly; they may take eight seconds, then they ask to narrow the filter.",
        show(counts),
    ]
    parts.append(
        f"{about['cpu']}, {about['cores']} cores, load average {about['load_average']} at the start and "
        f"{results['load_after']:.2f} at the end; {about['memory_gib']} GiB; Python {about['python']}; {about['date']}."
    )
    parts.append("Not measured: the browser, the network, a cold cache of the operating system, many viewers at once.")
    return "\n\n".join(parts) + "\n"


def run(home: Path, jobs: int, repeats: int) -> dict[str, Any]:
    """Load and measure."""
    import os

    about = machine.describe_machine(1, 0)
    with open_service(home) as context:
        client = sign_in(context)
        began = time.perf_counter()
        month = load(context.settings.require_database_url().replace("+psycopg", ""), jobs, read_now())
        load_s = time.perf_counter() - began
        with context.db.transaction() as tx:
            size = int(tx.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
        print(f"{jobs:,} jobs, {size / 2**30:.1f} GiB, loaded in {load_s:,.0f} s", flush=True)
        rows = [measure(client, name, address, repeats) for name, address in list_addresses(client, month)]
        rows += [measure(client, name, address, min(3, repeats), goal=False) for name, address in list_counts()]
    return {
        "jobs": jobs, "repeats": repeats, "load_s": load_s, "size_gib": size / 2**30, "machine": about,
        "load_after": os.getloadavg()[0], "rows": [asdict(row) for row in rows],
    }  # fmt: skip


def main() -> int:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(prog="bench.admin")
    parser.add_argument("--jobs", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--home", type=Path, help="an empty folder for the database, kept afterwards")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with ExitStack() as stack:
        home = given.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-admin-")))
        results = run(home, given.jobs, given.repeats)
    given.out.mkdir(exist_ok=True, parents=True)
    (given.out / "admin.json").write_text(json.dumps(results, indent=2) + "\n")
    (given.out / "admin.md").write_text(render(results))
    missed = [row["name"] for row in results["rows"] if row["goal"] and row["median_ms"] > GOAL_MS]
    print(f"above {GOAL_MS:.0f} ms: {'; '.join(missed)}" if missed else "The goal is met.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
