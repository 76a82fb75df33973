"""What the command line prints: answers on stdout, everything else on stderr."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Iterable

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """A line for people, whatever it holds."""
    with suppress(OSError):  # nobody reads any more: no reason to end
        out.print(escape(line))


def words(some: Iterable[str]) -> str:
    """Words in order, with commas."""
    return ", ".join(sorted(some))
