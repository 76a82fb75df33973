"""What the command line prints: answers on stdout, everything else on stderr; and how it ends."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Exit statuses: done; could not be done; was asked wrongly; done, but not everything was answered; interrupted.
DONE, FAILED, MISUSED, UNANSWERED, INTERRUPTED = 0, 1, 2, 3, 130
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, a value a line, and nothing else.")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """A line for people, whatever it holds."""
    with suppress(OSError):  # nobody reads any more: no reason to end
        out.print(escape(line))


def remark(line: str) -> None:
    """A line beside the answer, on stderr."""
    with suppress(OSError):
        err.print(escape(line))


def emit(value: Any) -> None:
    """A line of JSON. Raises BrokenPipeError where nobody reads any more."""
    line = json.dumps(value, ensure_ascii=False)
    click.echo(
        line.encode("utf-8", "replace").decode()
    )  # half a surrogate pair, which JSON may hold, cannot be written


def show_text(text: str) -> str:
    """A text of many lines that cannot steer a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else " " for char in text)


def words(some: Iterable[str]) -> str:
    """Words in order, with commas."""
    return ", ".join(sorted(some))
