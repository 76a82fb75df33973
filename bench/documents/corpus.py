"""A folder of documents for a synthetic night: PDF, TIFF, PNG and JPEG of made-up vendors, no two pages alike."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from batchinfer.samples.pages import draw_page

#: A page as it is scanned: A4 at 100 DPI.
_SHEET = (827, 1169)
_DRAWN = 48
#: Formats in turn, and pages of the documents of each: five on average.
_TURN = (("pdf", 8), ("png", 1), ("pdf", 10), ("jpg", 1), ("tiff", 5), ("pdf", 9), ("jpg", 1), ("pdf", 5))


@dataclass(frozen=True)
class Corpus:
    """What was written."""

    folder: Path
    documents: int
    pages: int
    size_bytes: int


def write_corpus(folder: Path, documents: int, seed: int = 7) -> Corpus:
    """Write so many documents, five pages each on average, into folders of a hundred."""
    rng = random.Random(seed)
    drawn = [draw_page(rng.getrandbits(48)).image.convert("L") for _ in range(_DRAWN)]
    pages = size_bytes = 0
    for number in range(documents):
        suffix, count = _TURN[number % len(_TURN)]
        path = folder / f"{number // 100:04d}" / f"{number:06d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheets = [_make_sheet(rng.choice(drawn), f"{number}-{page}") for page in range(1, count + 1)]
        _save(path, suffix, sheets)
        pages += count
        size_bytes += path.stat().st_size
    return Corpus(folder, documents, pages, size_bytes)


def _make_sheet(picture: Image.Image, mark: str) -> Image.Image:
    sheet = Image.new("L", _SHEET, 250)
    sheet.paste(picture.resize((_SHEET[0], _SHEET[0])), (0, 150))
    ImageDraw.Draw(sheet).text((30, 30), f"Sheet {mark}", fill=0)
    return sheet


def _save(path: Path, suffix: str, sheets: list[Image.Image]) -> None:
    options: dict[str, object] = {"save_all": True, "append_images": sheets[1:]} if len(sheets) > 1 else {}
    if suffix == "pdf":
        options |= {"save_all": True, "resolution": 100.0, "quality": 85}
    elif suffix == "tiff":
        options |= {"compression": "tiff_lzw"}
    sheets[0].save(path, {"jpg": "JPEG"}.get(suffix, suffix.upper()), **options)
