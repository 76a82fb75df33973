"""The end of the demo: the same documents as a run over their folder, again with nothing to read, and a schedule."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from batchinfer.client.progress import make_plain

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from batchinfer.client import Client
    from batchinfer.client.nouns import Run, Schedule

#: Of a run that hung.
_PATIENCE_S = 600.0
_NAME = "nightly-demo"
_TIMING = {"cron": "30 2 * * 1-5", "timezone": "Europe/Berlin", "jitter_seconds": 120, "window": "5h"}


@dataclass(frozen=True)
class Nights:
    """What was seen: the folder read as a run, the same again, and the schedule that will read it."""

    first: Run
    again: Run
    schedule: Schedule

    @property
    def good(self) -> bool:
        """Whether the first read all that it should, and the second nothing."""
        listed = self.first.counts.documents.listed
        return bool(
            listed
            and self.first.succeeded
            and self.again.succeeded
            and self.again.counts.documents.skipped == listed
            and self.again.counts.pages.total == 0
        )


def run_nights(client: Client, console: Console, folder: Path, prompt: str, model: str, *, clean: bool) -> Nights:
    """Declare a run over the folder twice, then a schedule. `clean` says that no page has a reason to fail.

    Raises Overrun, BatchinferError.
    """
    declared: dict[str, Any] = {
        "source": {"uri": str(folder)},
        "pipeline": {
            "model": model, "prompt": prompt, "generation": {"max_tokens": 160},
            # A page of the reader's own may fail: then its document is read again.
            "max_failed_share": 0.02 if clean else 1.0,
        },
        "sample": {"size": 0},
    }  # fmt: skip
    console.print(f"  The same files as a night, listed by the service itself: {folder}", soft_wrap=True)
    first = _read(client, console, declared)
    console.print("  And the same night once more")
    again = _read(client, console, declared)
    schedule = client.schedules.apply({**declared, "name": _NAME, "timing": _TIMING})
    return Nights(first, again, schedule)


def _read(client: Client, console: Console, declared: dict[str, Any]) -> Run:
    began_s = time.monotonic()
    with console.status("reading", spinner_style="cyan"):
        run = client.runs.wait(client.runs.start(declared).id, _PATIENCE_S)
    counts = run.counts
    said = (
        f"{counts.documents.listed} documents, {counts.documents.skipped} unchanged and left out, "
        f"{counts.pages.total} pages read in {time.monotonic() - began_s:.1f} s"
    )
    console.print(f"    {said}" if run.succeeded else Text(f"    {said}: {run.status}", style="bold red"))
    return run


def print_nights(client: Client, console: Console, nights: Nights) -> None:
    """Two lines: what a night that changes nothing costs, and when the next one is."""
    style = "green" if nights.good else "bold red"
    line = (
        f"{nights.again.counts.documents.skipped} of {nights.first.counts.documents.listed} documents unchanged the "
        f"second time, {nights.again.counts.pages.total} pages read again"
    )
    console.print(Text.assemble(("Night     ", "bold"), (line, style)), soft_wrap=True)
    soonest = next(iter(client.schedules.list_next(nights.schedule.id, 1)), None)
    when = f"next at {soonest.local}" if soonest else "never"
    fires = make_plain(nights.schedule.fires or "", 120)
    console.print(Text.assemble(("Schedule  ", "bold"), f"{nights.schedule.name}: {fires}; {when}"), soft_wrap=True)
