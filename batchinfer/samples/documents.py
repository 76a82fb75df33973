"""The demo's documents: held-out pages in the four kinds of file that the service takes.

A PDF is saved at `RESOLUTION` dots an inch: rendered at 144 dpi, each of its pages has `PAGE_SIZE` pixels
each way again, give or take the rounding of the renderer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.samples.pages import Page, draw_page

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

#: Dots an inch of the PDF and TIFF files; render a sample PDF at this to meet the pixels that were drawn.
RESOLUTION = 144
JPEG_QUALITY = 95
_LONGEST_DOCUMENT = 5
#: How a scanned page differs from a clean one: arguments of `draw_page`.
SCAN_NOISE, SCAN_SKEW_DEGREES = 8.0, 1.5


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    format: str
    suffix: str
    media_type: str
    many_pages: bool


_PDF = Kind("PDF", ".pdf", "application/pdf", many_pages=True)
_PNG = Kind("PNG", ".png", "image/png", many_pages=False)
_JPEG = Kind("JPEG", ".jpg", "image/jpeg", many_pages=False)
_TIFF = Kind("TIFF", ".tiff", "image/tiff", many_pages=True)
#: The kinds in turn: any eight documents hold all four, half of them with several pages.
_TURN = (_PDF, _PNG, _PDF, _JPEG, _TIFF, _PNG, _PDF, _JPEG)


@dataclass(frozen=True)
class SampleDocument:
    """A written file and the truth about each of its pages."""

    path: Path
    media_type: str
    #: In page order; `fields` and `text` of each are what a model should answer.
    pages: tuple[Page, ...]
    #: Whether its pages are noisy and a little skewed.
    scanned: bool = False


def write_documents(folder: Path, seed: int, *, count: int = 24) -> list[SampleDocument]:
    """Write `count` documents into `folder` (made if missing) and return them in order of their names.

    The same seed writes the same pages and the same names. Every third document is noisy and a little
    skewed, as from a scanner.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"documents/{seed}")
    documents = []
    for number in range(count):
        kind = _TURN[number % len(_TURN)]
        scanned = number % 3 == 2
        pages = _draw(rng, kind, scanned=scanned)
        path = folder / f"{number + 1:03d}-{pages[0].fields['type']}{kind.suffix}"
        _write(path, kind, pages)
        documents.append(SampleDocument(path, kind.media_type, pages, scanned))
    return documents


def _draw(rng: random.Random, kind: Kind, *, scanned: bool) -> tuple[Page, ...]:
    count = rng.randint(2, _LONGEST_DOCUMENT) if kind.many_pages else 1
    noise, skew = (SCAN_NOISE, SCAN_SKEW_DEGREES) if scanned else (0.0, 0.0)
    return tuple(draw_page(rng.getrandbits(48), noise=noise, skew_degrees=skew) for _ in range(count))


def _write(path: Path, kind: Kind, pages: tuple[Page, ...]) -> None:
    images = [page.image for page in pages]
    options: dict[str, object] = {}
    if kind.many_pages:
        options = {"save_all": True, "append_images": images[1:]}
    if kind is _PDF:
        # A date of writing would make two runs of one seed differ.
        options |= {"resolution": RESOLUTION, "quality": JPEG_QUALITY, "creationDate": None, "modDate": None}
    elif kind is _TIFF:
        options |= {"compression": "tiff_lzw", "dpi": (RESOLUTION, RESOLUTION)}
    elif kind is _JPEG:
        options |= {"quality": JPEG_QUALITY}
    _save(images[0], path, kind.format, options)


def _save(image: Image.Image, path: Path, file_format: str, options: dict[str, object]) -> None:
    image.save(path, file_format, **options)
