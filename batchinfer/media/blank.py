"""Whether anything is on a page: decided by looking at its picture, never at an answer. Runs in `child.py` only.

A mark is where the page differs from the paper around it by more than `CONTRAST` of 255. The paper is what the page is
around a place, so that yellowed, grey or unevenly lit paper is paper. Single marked pixels are noise of the scanner and
specks of dust: only a mark that fills a share of a small cell and goes on in the next cell is taken for ink, which a
single digit does and dust does not. What a scanner adds at the edges, its black border, is cut off before.

Whatever is in doubt is not blank: that costs one question to the model; a page lost as blank would be lost for good.
So a punched hole, a crooked border or a page that is all black is not blank, and a page with nothing but its number
neither.
"""

from __future__ import annotations

from PIL import Image, ImageChops

#: A page is looked at with its longest side so many pixels long, or less than twice as many: from 140 an inch for A4.
LOOK_SIDE = 1600
#: How much lighter or darker than the paper around it a mark is, of 255. What shines through from the other side of a
#: sheet is usually weaker; four deviations of strong scanner noise are.
CONTRAST = 48
#: A cell has so many pixels a side, about a letter's width.
CELL = 8
#: A cell is inked when such a share of it is marked: 6 of 64 pixels. At one speck in a hundred pixels, a page has about
#: one such cell by chance, and no two beside each other.
CELL_SHARE = 0.09
#: The paper of a place is the mean of a square of so many pixels a side.
PAPER = 32
#: Cut off on each side in any case, where no printer prints; and at most, as far as it is a dark or light border.
MARGIN, MOST_BORDER = 0.02, 0.15
#: Paper darker than this is none: such a page was scanned or drawn wrongly.
DARKEST_PAPER = 64


def is_blank(image: Image.Image) -> bool:
    """Whether nothing is on a page (RGB)."""
    grey = image.convert("L")
    factor = max(grey.size) // LOOK_SIDE
    if factor > 1:
        grey = grey.reduce(factor)
    # Most pages are not blank, and show it in their middle: a quarter of the work, and no border is there.
    width, height = grey.size
    if _has_ink(_find_marks(grey.crop((width // 4, height // 4, width - width // 4, height - height // 4)))):
        return False
    page = _cut_borders(grey)
    if min(page.size) < 2 * CELL:
        return False  # too small to say
    return _find_paper(page) >= DARKEST_PAPER and not _has_ink(_find_marks(page))


def _find_paper(page: Image.Image) -> int:
    """The middle value of a grey page."""
    left = page.width * page.height // 2
    for value, count in enumerate(page.histogram()):
        left -= count
        if left < 0:
            return value
    return 255


def _cut_borders(grey: Image.Image) -> Image.Image:
    """The page without its margin, and without rows and columns at its edges that are mostly no paper."""
    paper = _find_paper(grey)
    columns = list(grey.reduce((1, grey.height)).tobytes())
    rows = list(grey.reduce((grey.width, 1)).tobytes())
    left, right = _count_border(columns, paper), _count_border(columns[::-1], paper)
    top, bottom = _count_border(rows, paper), _count_border(rows[::-1], paper)
    return grey.crop((left, top, grey.width - right, grey.height - bottom))


def _count_border(means: list[int], paper: int) -> int:
    """How many of the first rows or columns to cut off."""
    margin, most = round(MARGIN * len(means)), round(MOST_BORDER * len(means))
    border = 0
    while border < most and abs(means[border] - paper) > CONTRAST:
        border += 1
    return border + margin


def _find_marks(page: Image.Image) -> Image.Image:
    """255 where the page differs from the paper around, else 0."""
    small = page.reduce(PAPER) if min(page.size) >= 2 * PAPER else page.reduce(page.size)
    around = small.resize(page.size, Image.Resampling.BILINEAR)
    return ImageChops.difference(page, around).point([255 * (value > CONTRAST) for value in range(256)])


def _has_ink(marks: Image.Image) -> bool:
    """Whether two cells beside each other are inked. The grid is laid at four places, so that no mark falls between."""
    least = round(CELL_SHARE * 255)
    inked = [255 * (value > least) for value in range(256)]
    for left, top in ((0, 0), (CELL // 2, 0), (0, CELL // 2), (CELL // 2, CELL // 2)):
        width, height = ((side - offset) // CELL * CELL for side, offset in ((marks.width, left), (marks.height, top)))
        if not (width and height):
            continue
        cells = marks.crop((left, top, left + width, top + height)).reduce(CELL).point(inked)
        for aside, down in ((1, 0), (0, 1), (1, 1), (-1, 1)):
            if ImageChops.darker(cells, _shift(cells, aside, down)).getbbox() is not None:
                return True
    return False


def _shift(cells: Image.Image, aside: int, down: int) -> Image.Image:
    moved = Image.new("L", cells.size)
    moved.paste(cells, (aside, down))
    return moved
