"""What is shown while it runs: a bar in a terminal, else a line now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from batchinfer.demo.watch import Progress

_LINE_EVERY_S = 3.0
_LINE_AT_LEAST_S = 15.0
#: Where no terminal says how wide it is.
_WIDTH = 110


def open_console() -> Console:
    """A console for the whole run. Text is never read as markup: models and files wrote some of it."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=_WIDTH)
    return console


def make_plain(text: str, longest: int = 1000) -> str:
    """Text that cannot steer a terminal: one line, printable, at most so long."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


class Screen:
    """Progress and remarks of one run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("  "),
            BarColumn(bar_width=32, complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("waiting for the first page", total=None)
        self._printed_at_s, self._printed = float("-inf"), -1

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def update(self, progress: Progress) -> None:
        """Show how it stands."""
        text = describe_progress(progress)
        self._bar.update(self._task, total=progress.total, completed=progress.done, description=text)
        if not self._console.is_terminal and self._is_due(progress):
            self._printed_at_s, self._printed = time.monotonic(), progress.done
            self._console.print(f"  {text}")

    def _is_due(self, progress: Progress) -> bool:
        """A line every few seconds, less often while nothing moves, and one at the end."""
        pause_s = _LINE_EVERY_S if progress.done != self._printed else _LINE_AT_LEAST_S
        at_end = progress.done >= progress.total != self._printed
        return at_end or time.monotonic() - self._printed_at_s >= pause_s

    def say(self, line: str) -> None:
        """A remark above the bar."""
        self._console.print(f"  {line}")


def describe_progress(progress: Progress) -> str:
    """For example `31/54 pages  9.3 pages/s  11.8 rows a step  3 s left`."""
    parts = [f"{progress.done}/{progress.total} pages"]
    if progress.pages_per_s:
        parts.append(f"{progress.pages_per_s:.1f} pages/s")
    if progress.rows_per_step is not None:
        parts.append(f"{progress.rows_per_step:.1f} rows a step")
    if progress.left_s is not None and progress.done < progress.total:
        parts.append(f"{progress.left_s:.0f} s left")
    return "  ".join(parts)
