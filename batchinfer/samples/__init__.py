"""Sample pages with known truth, for the demo, the tests, the benches and the training of `docreader`."""

from __future__ import annotations

from batchinfer.samples import degrade
from batchinfer.samples.pages import FIELDS, PAGE_SIZE, Page, draw_page
from batchinfer.samples.sheet import Glyph

__all__ = ["FIELDS", "PAGE_SIZE", "Glyph", "Page", "degrade", "draw_page"]
