"""A sheet of paper to draw on, which remembers where each character lies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

#: Height of the middle of a character above the baseline, as a share of the font size.
_MIDDLE = 0.35


@dataclass(frozen=True, slots=True)
class Glyph:
    """A drawn character and its centre in pixels from the top left corner. Spaces are kept too."""

    char: str
    x: float
    y: float


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's bundled font, so that a page looks the same wherever it is drawn."""
    bundled = ImageFont.load_default(size)
    if not isinstance(bundled, ImageFont.FreeTypeFont):
        raise TypeError("This Pillow was built without FreeType; install a Pillow wheel to draw sample pages")
    return bundled


@lru_cache(maxsize=1 << 16)
def _advance(char: str, following: str, size: int) -> float:
    """Pixels from one character to the next, kerning included."""
    return font(size).getlength(char + following) - font(size).getlength(following)


def _edges(text: str, size: int) -> Iterator[float]:
    """Where each character ends, in pixels from the start of the text."""
    right = 0.0
    for char, following in zip_longest(text, text[1:], fillvalue=""):
        right += _advance(char, following, size)
        yield right


def text_width(text: str, size: int) -> float:
    """Advance of a text in pixels."""
    return max(_edges(text, size), default=0.0)


class Sheet:
    """Grey paper with dark ink, both drawn by `rng`."""

    def __init__(self, rng: random.Random, width: int, height: int) -> None:
        self.paper = rng.randint(225, 255)
        self.ink = rng.randint(0, 70)
        self.image = Image.new("L", (width, height), self.paper)
        self.glyphs: list[Glyph] = []
        self._draw = ImageDraw.Draw(self.image)

    def write(self, x: float, baseline: float, text: str, size: int) -> float:
        """Draw a text from `x` on; returns where it ends."""
        self._draw.text((x, baseline), text, fill=self.ink, font=font(size), anchor="ls")
        left = 0.0
        for char, right in zip(text, _edges(text, size), strict=True):
            self.glyphs.append(Glyph(char, x + (left + right) / 2, baseline - _MIDDLE * size))
            left = right
        return x + left

    def rule(self, x: float, y: float, right: float) -> None:
        """A horizontal line one pixel high."""
        self._draw.line((x, y, right, y), fill=self.ink)

    def tilt(self, degrees: float) -> None:
        """Turn the sheet about its middle, counter-clockwise, glyph positions with it."""
        self.image = self.image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=self.paper)
        self._draw = ImageDraw.Draw(self.image)
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        mid_x, mid_y = self.image.width / 2, self.image.height / 2
        self.glyphs = [
            Glyph(
                glyph.char,
                mid_x + (glyph.x - mid_x) * cos + (glyph.y - mid_y) * sin,
                mid_y - (glyph.x - mid_x) * sin + (glyph.y - mid_y) * cos,
            )
            for glyph in self.glyphs
        ]
