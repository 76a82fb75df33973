"""Layouts: in which order a page says things and with which labels.

Every part of a held-out layout occurs in some training layout, but no whole held-out layout does: the
parts are counted off so that one combination in six is kept back and each pair of parts stays trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

_HEADS = (
    ("type", "vendor", "number", "date"),
    ("vendor", "type", "number", "date"),
    ("type", "vendor", "date", "number"),
    ("vendor", "type", "date", "number"),
    ("type", "number", "date", "vendor"),
    ("vendor", "number", "date", "type"),
)
_LABELS = (
    ("No", "Date"),
    ("No.", "Issued"),
    ("Number", "Date"),
    ("Ref", "Issued"),
    ("Number", "Day"),
    ("Ref", "Date"),
)
_TOTALS = (
    "Total: {total} {currency}",
    "Total {currency} {total}",
    "TOTAL: {currency} {total}",
    "Total: {currency} {total}",
    "Sum: {total} {currency}",
    "Due {currency} {total}",
)
_HELD_OUT_EVERY = 6


@dataclass(frozen=True)
class Layout:
    """How one page is set."""

    name: str
    #: The four head lines, from the top.
    head: tuple[str, ...]
    number_label: str
    date_label: str
    #: A template over `total` and `currency`.
    total_line: str


def _all_layouts() -> tuple[tuple[Layout, ...], tuple[Layout, ...]]:
    train: list[Layout] = []
    held_out: list[Layout] = []
    parts = product(enumerate(_HEADS), enumerate(_LABELS), enumerate(_TOTALS))
    for (a, head), (b, labels), (c, total_line) in parts:
        layout = Layout(f"h{a}l{b}t{c}", head, labels[0], labels[1], total_line)
        (held_out if (a + b + c) % _HELD_OUT_EVERY == 0 else train).append(layout)
    return tuple(train), tuple(held_out)


TRAIN_LAYOUTS, HELD_OUT_LAYOUTS = _all_layouts()
