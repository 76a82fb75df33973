"""How far something is, how fast it goes and how long it takes: a bar in a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from typing import TextIO

#: The rate is that of the last so many seconds.
_WINDOW_S = 10.0
#: So many of those that this meter saw, or a tenth of all, say something about the rest.
_TELLING = 20
_LINE_EVERY_S = 3.0
_LINE_AT_LEAST_S = 15.0
#: Columns where no terminal says how wide it is.
_WIDTH = 110


class Meter:
    """Rate and time left, from how many are done when."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._history: list[tuple[float, int]] = []
        self._first: int | None = None

    def note(self, done: int) -> None:
        """So many are done now; those of the first call were before this meter began."""
        now_s = time.monotonic()
        if self._first is None:
            self._began_s, self._first = now_s, done
        self._history.append((now_s, done))
        while self._history[0][0] < now_s - _WINDOW_S:
            self._history.pop(0)

    @property
    def rate(self) -> float:
        """Ended a second, lately."""
        if not self._history:
            return 0.0
        (since_s, before), (now_s, done) = self._history[0], self._history[-1]
        return (done - before) / (now_s - since_s) if now_s > since_s else 0.0

    def left_s(self, total: int) -> float | None:
        """Seconds until all are done at the mean rate since the beginning; None while that says little."""
        if self._first is None:
            return None
        now_s, done = self._history[-1]
        seen = done - self._first
        if seen <= 0 or not (seen >= _TELLING or seen * 10 >= total):
            return None
        return (now_s - self._began_s) / seen * max(0, total - done)


class Display(Protocol):
    """Where progress is shown."""

    def show(self, done: int, total: int, text: str) -> None: ...


class Bar:
    """One bar on a console. Text is never read as markup."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("  "),
            BarColumn(bar_width=32, complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("waiting for the first", total=None)
        self._printed_at_s, self._printed = float("-inf"), -1

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, done: int, total: int, text: str) -> None:
        """Show how it stands."""
        self._bar.update(self._task, total=total or None, completed=done, description=text)
        if not self._console.is_terminal and self._is_due(done, total):
            self._printed_at_s, self._printed = time.monotonic(), done
            self._console.print(f"  {text}", markup=False)

    def say(self, line: str) -> None:
        """A remark above the bar."""
        self._console.print(f"  {line}", markup=False)

    def _is_due(self, done: int, total: int) -> bool:
        """A line every few seconds, less often while nothing moves, and one at the end."""
        pause_s = _LINE_EVERY_S if done != self._printed else _LINE_AT_LEAST_S
        at_end = done >= total > 0 and done != self._printed
        return at_end or time.monotonic() - self._printed_at_s >= pause_s


def open_console(file: TextIO | None = None) -> Console:
    """A console for people, on stderr unless told otherwise; as wide as its terminal, or fixed where there is none."""
    console = Console(file=file or sys.stderr, highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        return console
    return Console(file=file or sys.stderr, highlight=False, markup=False, emoji=False, width=_WIDTH)


def describe(meter: Meter, done: int, total: int, unit: str, *more: str) -> str:
    """For example `31/54 files  9.3 files/s  3 s left`, and `more` where it is not empty."""
    parts = [f"{done:,}/{total:,} {unit}"]
    if meter.rate:
        parts.append(f"{meter.rate:.1f} {unit}/s")
    left_s = meter.left_s(total)
    if left_s is not None and done < total:
        parts.append(f"{show_duration(left_s)} left")
    return "  ".join([*parts, *(text for text in more if text)])


def show_duration(seconds: float) -> str:
    """For example `41 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def make_plain(text: str, longest: int = 1000) -> str:
    """Text that cannot steer a terminal: one line, printable, at most so long."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
