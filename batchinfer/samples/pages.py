"""One page of a made-up invoice, receipt, order or quote, with the truth about it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from batchinfer.samples import degrade
from batchinfer.samples.layouts import HELD_OUT_LAYOUTS, TRAIN_LAYOUTS, Layout
from batchinfer.samples.sheet import Glyph, Sheet, text_width
from batchinfer.samples.vocabulary import (
    CURRENCIES,
    KINDS,
    amount,
    date,
    document_number,
    item_name,
    vendor_name,
)

if TYPE_CHECKING:
    from PIL import Image

Split = Literal["train", "held_out"]

#: Width and height of a page in pixels.
PAGE_SIZE = 256
FIELDS = ("type", "vendor", "number", "date", "total", "currency")
_RIGHT_EDGE = PAGE_SIZE - 8


@dataclass(frozen=True)
class Page:
    """A drawn page and everything that is true of it."""

    seed: int
    split: Split
    layout: str
    #: Mode `L`, `PAGE_SIZE` pixels each way.
    image: Image.Image
    #: The six values that `Extract.` must answer with, in the order of `FIELDS`.
    fields: dict[str, str]
    #: The lines from top to bottom; an item and its price are parted by one space.
    text: str
    #: Every character of `text` except the line ends, in the same order.
    glyphs: tuple[Glyph, ...]
    #: Where in `glyphs` the value of a field lies: first and one past the last.
    spans: dict[str, tuple[int, int]]


def draw_page(
    seed: int,
    *,
    split: Split = "held_out",
    noise: float = 0.0,
    skew_degrees: float = 0.0,
) -> Page:
    """Draw the page of a seed: the same page every time.

    `noise` is the standard deviation of the grey noise (0 to 255); with any noise the page is also blurred
    a little every second time. `skew_degrees` is the most that the page may be turned either way. The seed
    fixes the content whatever the noise and the skew are, and the two splits share no page.
    """
    rng = random.Random(f"page/{split}/{seed}")
    fields = draw_fields(rng, split)
    layout = rng.choice(HELD_OUT_LAYOUTS if split == "held_out" else TRAIN_LAYOUTS)
    setting = _Setting(rng, layout, fields, split)
    setting.run()
    sheet, wear = setting.sheet, random.Random(f"wear/{split}/{seed}")
    if skew_degrees:
        sheet.tilt(wear.uniform(-skew_degrees, skew_degrees))
    image = sheet.image
    if noise:
        if wear.random() < 0.5:
            image = degrade.blur(image, wear.uniform(0.2, 0.6))
        image = degrade.add_noise(image, wear, noise)
    text = "\n".join(setting.lines)
    return Page(seed, split, layout.name, image, fields, text, tuple(sheet.glyphs), setting.spans)


def draw_fields(rng: random.Random, split: Split) -> dict[str, str]:
    """Values for the six fields."""
    return {
        "type": rng.choice(KINDS),
        "vendor": vendor_name(rng, split),
        "number": document_number(rng, split),
        "date": date(rng),
        "total": amount(rng),
        "currency": rng.choice(CURRENCIES),
    }


class _Setting:
    """Sets the lines of one page from top to bottom and notes where each field landed."""

    def __init__(self, rng: random.Random, layout: Layout, fields: dict[str, str], split: Split) -> None:
        self.rng, self.layout, self.fields = rng, layout, fields
        self.items = [(item_name(rng, split), amount(rng, longest=3)) for _ in range(rng.randint(0, 3))]
        self.sheet = Sheet(rng, PAGE_SIZE, PAGE_SIZE)
        self.lines: list[str] = []
        self.spans: dict[str, tuple[int, int]] = {}
        self.size = rng.randint(20, 22)
        self.left = rng.randint(6, 18)
        count = len(layout.head) + len(self.items) + 1
        #: Space under a line, so that the page is neither crowded nor overfull.
        self.gap = rng.uniform(5, min(14, (PAGE_SIZE - 20) / count - self.size))
        spare = PAGE_SIZE - 20 - count * (self.size + self.gap)
        self.baseline = 8 + self.size + rng.uniform(0, max(0.0, spare))

    def run(self) -> None:
        """Head, items, rule, total."""
        for field in self.layout.head:
            self._head_line(field)
        for item, price in self.items:
            self._item_line(item, price)
        if self.rng.random() < 0.5:
            y = self.baseline - self.size - self.gap / 2 + 3
            self.sheet.rule(self.left, y, _RIGHT_EDGE)
        text = self.layout.total_line.format(**self.fields)
        self._line(text, {name: self.fields[name] for name in ("total", "currency")})

    def _head_line(self, field: str) -> None:
        value = self.fields[field]
        if field == "type":
            self._line(value.upper(), {"type": value.upper()})
        elif field == "vendor":
            self._line(value, {"vendor": value})
        else:
            label = self.layout.number_label if field == "number" else self.layout.date_label
            self._line(f"{label}: {value}", {field: value})

    def _line(self, text: str, values: dict[str, str]) -> None:
        size = self.size
        while self.left + text_width(text, size) > _RIGHT_EDGE:
            size -= 1
        first = len(self.sheet.glyphs)
        self.sheet.write(self.left, self.baseline, text, size)
        for name, value in values.items():
            start = first + text.rindex(value)
            self.spans[name] = (start, start + len(value))
        self._finish_line(text)

    def _item_line(self, item: str, price: str) -> None:
        right = _RIGHT_EDGE - self.rng.randint(0, 20)
        self.sheet.write(self.left, self.baseline, item + " ", self.size)
        self.sheet.write(right - text_width(price, self.size), self.baseline, price, self.size)
        self._finish_line(f"{item} {price}")

    def _finish_line(self, text: str) -> None:
        self.lines.append(text)
        self.baseline += self.size + self.gap
