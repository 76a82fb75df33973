"""What counts as blank: drawn pages, as a scanner might bring them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFont

from batchinfer.media.blank import is_blank

if TYPE_CHECKING:
    from collections.abc import Callable

#: A4 at 144 dots an inch.
SIZE = (1190, 1684)


def paper(colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    return Image.new("RGB", SIZE, colour)


def write(page: Image.Image, text: str, where: tuple[int, int], *, size: int = 20, fill: str = "black") -> Image.Image:
    ImageDraw.Draw(page).text(where, text, fill=fill, font=ImageFont.load_default(size))
    return page


def noisy(page: Image.Image, sigma: float) -> Image.Image:
    """Scanner noise of so many levels, around 128 and moved to none."""
    noise = Image.effect_noise(page.size, sigma).convert("RGB")
    return ImageChops.add(page, noise, scale=1.0, offset=-128)


def peppered(page: Image.Image, share: float, side: int = 1) -> Image.Image:
    drawing, dice = ImageDraw.Draw(page), random.Random(7)
    for _ in range(int(page.width * page.height * share / side**2)):
        x, y = dice.randrange(page.width), dice.randrange(page.height)
        drawing.rectangle((x, y, x + side - 1, y + side - 1), fill="black")
    return page


def edged(page: Image.Image, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> Image.Image:
    inner = page.crop((left, top, page.width - right, page.height - bottom))
    page.paste((0, 0, 0), (0, 0, *page.size))
    page.paste(inner, (left, top))
    return page


def shaded(page: Image.Image) -> Image.Image:
    """Darker towards one side, as near the fold of a book."""
    ramp = (
        Image.linear_gradient("L")
        .rotate(90)
        .resize(page.size)
        .point([140 + value * 115 // 255 for value in range(256)])
    )
    return ImageChops.multiply(page, Image.merge("RGB", (ramp, ramp, ramp)))


BLANK: dict[str, Callable[[], Image.Image]] = {
    "white": paper,
    "yellowed": lambda: paper((226, 208, 160)),
    "grey with noise": lambda: noisy(paper((225, 225, 222)), 12),
    "specks": lambda: peppered(paper(), 0.004),
    "dust": lambda: peppered(paper(), 0.0001, side=3),
    "black edges": lambda: edged(paper(), left=60, top=25, right=90, bottom=140),
    "a black edge and noise": lambda: noisy(edged(paper((230, 224, 205)), right=110), 10),
    "shaded": lambda: shaded(paper((240, 235, 220))),
    "shining through": lambda: write(paper(), "the other side of the sheet " * 3, (90, 700), fill="#dddddd"),
    "small": lambda: Image.new("RGB", (200, 300), "white"),
}
WRITTEN: dict[str, Callable[[], Image.Image]] = {
    "a short line": lambda: write(paper(), "Seen.", (500, 800)),
    "a page number": lambda: write(paper(), "7", (590, 1610)),
    "the thinnest page number": lambda: write(paper(), "1", (590, 1610), size=18),
    "a dash": lambda: write(paper(), "-  3  -", (560, 1590), size=18),
    "grey writing": lambda: write(paper(), "pencilled", (200, 300), size=28, fill="#909090"),
    "on yellow, with noise": lambda: noisy(write(paper((226, 208, 160)), "Total 12.00", (300, 900)), 12),
    "within black edges": lambda: edged(write(paper(), "Annex", (200, 200)), left=60, top=25, right=90, bottom=140),
    "white on dark": lambda: write(paper((40, 50, 90)), "Thank you", (300, 500), size=60, fill="white"),
    "a photo": lambda: noisy(shaded(paper((120, 140, 130))), 60),
    "a box": lambda: edged(paper(), left=590, top=0, right=0, bottom=0),
    "all black": lambda: paper((4, 4, 4)),
    "tiny": lambda: Image.new("RGB", (12, 9), "white"),
}  # fmt: skip


@pytest.mark.parametrize("name", BLANK)
def test_pages_on_which_nothing_is(name: str) -> None:
    assert is_blank(BLANK[name]())


@pytest.mark.parametrize("name", WRITTEN)
def test_pages_on_which_something_is_are_never_blank(name: str) -> None:
    assert not is_blank(WRITTEN[name]())


@pytest.mark.parametrize("place", range(8))
def test_no_digit_falls_between_two_cells(place: int) -> None:
    assert not is_blank(write(paper(), "1", (300 + place, 1500 + 3 * place), size=18))


def test_a_large_scan_is_looked_at_as_a_small_one() -> None:
    size = (SIZE[0] * 3, SIZE[1] * 3)
    assert is_blank(noisy(paper((230, 228, 220)), 12).resize(size))
    assert not is_blank(write(paper(), "7", (590, 1610)).resize(size))
