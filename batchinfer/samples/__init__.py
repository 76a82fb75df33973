"""Sample pages with known truth, for the demo, the tests, the benches and the training of `docreader`."""

from __future__ import annotations

from batchinfer.samples import degrade
from batchinfer.samples.documents import (
    RESOLUTION,
    SCAN_NOISE,
    SCAN_SKEW_DEGREES,
    SampleDocument,
    write_documents,
)
from batchinfer.samples.pages import FIELDS, PAGE_SIZE, Page, Split, draw_page
from batchinfer.samples.sheet import Glyph

__all__ = [
    "FIELDS",
    "PAGE_SIZE",
    "RESOLUTION",
    "SCAN_NOISE",
    "SCAN_SKEW_DEGREES",
    "Glyph",
    "Page",
    "SampleDocument",
    "Split",
    "degrade",
    "draw_page",
    "write_documents",
]
