"""What is said at the end: the table, the accuracy, the ledger, and the results as a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from batchinfer.client.progress import make_plain
from batchinfer.demo.accuracy import TOLERANCE, Accuracy, find_wrong, read_fields

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from batchinfer.demo.ledger import Ledger, PageRow

#: Rows that are shown in any case; wrong ones follow them.
FIRST_ROWS = 10
_ENGINE_STAGES = ("preparing", "prefill", "decoding")


def write_results(path: Path, rows: Sequence[PageRow]) -> None:
    """One JSON line a page, in the order of submission."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(_show_row(row), ensure_ascii=False) + "\n")


def print_table(console: Console, rows: Sequence[PageRow]) -> None:
    """The first rows, and after them every page that failed or is wrong somewhere."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("document", no_wrap=True)
    table.add_column("page", justify="right")
    table.add_column("fields" if any(row.truth for row in rows) else "answer", ratio=1)
    table.add_column("queued", justify="right", no_wrap=True)
    table.add_column("run", justify="right", no_wrap=True)
    for row in rows[:FIRST_ROWS]:
        _add_row(table, row)
    wrong = [row for row in rows[FIRST_ROWS:] if row.job["error"] or find_wrong(row)]
    if wrong:
        table.add_section()
    for row in wrong:
        _add_row(table, row)
    console.print(table)
    hidden = len(rows) - min(len(rows), FIRST_ROWS) - len(wrong)
    if hidden:
        known = any(row.truth for row in rows)
        console.print(f"  and {hidden} more{', all of them right' if known else ''}.\n")


def print_ledger(console: Console, ledger: Ledger) -> None:
    """The count in one line, and under it whatever is not as it should be."""
    line = (
        f"{ledger.files} files, {ledger.pages} pages submitted: {ledger.answered} answered, "
        f"{ledger.failed} failed; each once, lost {len(ledger.lost)}, twice {len(ledger.twice)}"
    )
    if ledger.unread:
        line += f"; {len(ledger.unread)} files not opened"
    if not ledger.clean:
        line = line.replace("each once, ", "NOT each once: ")
    style = "green" if ledger.clean else "bold red"
    console.print(Text.assemble(("Ledger    ", "bold"), (line, style)), soft_wrap=True)
    for word, labels in (("lost", ledger.lost), ("twice", ledger.twice), ("unsound", ledger.unsound)):
        for label in labels:
            console.print(Text(f"          {word}: {make_plain(label)}", style="red"), soft_wrap=True)
    for name, message in ledger.unread:
        console.print(f"          not opened: {make_plain(name)}: {make_plain(message)}", soft_wrap=True)


def print_accuracy(console: Console, accuracy: Accuracy) -> None:
    """Right fields over all, against the card, and field by field."""
    line = f"{accuracy.overall:.1%} of fields right, {accuracy.whole_pages:.0%} of pages whole"
    if accuracy.expected is not None:
        line += f"; {accuracy.expected:.1%} by the model card"
        if not accuracy.good:
            line += f", more than {100 * TOLERANCE:.0f} points above"
    style = "green" if accuracy.good else "bold red"
    console.print(Text.assemble(("Accuracy  ", "bold"), (line, style)), soft_wrap=True)
    by_field = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", style="dim")
    for heading in (" " * 10, *accuracy.per_field):
        by_field.add_column(heading.ljust(8))
    by_field.add_row("          here", *(f"{share:.0%}" for share in accuracy.per_field.values()))
    if accuracy.expected_per_field:
        by_field.add_row("          card", *(f"{share:.0%}" for share in accuracy.expected_per_field.values()))
    console.print(by_field)


def _add_row(table: Table, row: PageRow) -> None:
    queued, run = find_times(row.job)
    table.add_row(
        make_plain(row.name, 40),
        str(row.page),
        _judge(row),
        f"{queued:.0f} s" if queued is not None else "",
        f"{run:.2f} s" if run is not None else "",
    )


def _judge(row: PageRow) -> Text:
    error = row.job["error"]
    if error:
        return Text(f"failed: {make_plain(str(error['message']), 200)}", style="red")
    if row.truth is None:
        return Text(make_plain((row.job["result"] or {}).get("text", ""), 160), no_wrap=True, overflow="ellipsis")
    wrong = find_wrong(row)
    if not wrong:
        return Text(f"✓ {make_plain('  '.join(row.truth.values()))}", style="green")
    lines = []
    for name, (true, read) in wrong.items():
        found = f"read {make_plain(read, 60)}" if read is not None else "not read"
        lines.append(f"✗ {name} is {true}, {found}")
    return Text("\n".join(lines), style="yellow")


def find_times(job: dict[str, Any]) -> tuple[float | None, float | None]:
    """Seconds from submission to the last claim (whole ones), and seconds in the engine."""
    queued = job["started_at"] - job["created_at"] if job["started_at"] is not None else None
    timings = job["timings"] or {}
    stages = [timings[name] for name in _ENGINE_STAGES if name in timings]
    return queued, sum(stages) if stages else None


def _show_row(row: PageRow) -> dict[str, Any]:
    job = row.job
    return {
        "document": row.name,
        "page": row.page,
        "job": job["id"],
        "status": job["status"],
        "answer": (job["result"] or {}).get("text"),
        "fields": read_fields(job),
        "truth": row.truth,
        "wrong": sorted(find_wrong(row)) if row.truth is not None else None,
        "error": job["error"],
        "attempts": job["attempts"],
        "crashes": job["crashes"],
        "usage": job["usage"],
        "timings": job["timings"],
    }
