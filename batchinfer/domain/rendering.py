"""How the pages of a document become pictures, and which pages become one prompt together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.domain.page_ranges import choose_pages
from batchinfer.errors import BadDocument

if TYPE_CHECKING:
    from batchinfer.domain.pipelines import Pipeline
    from batchinfer.settings import Settings


@dataclass(frozen=True)
class RenderPlan:
    """What is drawn of a document. Sides are in pixels."""

    dpi: int
    max_side: int
    #: Pages that a file may have at all, and those of it that may be wanted.
    most_pages: int
    max_pages: int
    #: A range of pages (domain/page_ranges.py); None: all.
    pages: str | None = None
    #: None: as suits the picture's size.
    lossless: bool | None = None
    #: Whether it is looked for pages on which nothing is.
    find_blank: bool = False
    #: 0: no small copy of a page is kept.
    thumbnail_side: int = 0
    pages_per_prompt: int = 1

    def cut(self, total: int) -> list[tuple[int, ...]]:
        """The wanted ones of so many pages, in order: those of one prompt together.

        Raises BadDocument (`too_many_pages`).
        """
        wanted = choose_pages(self.pages, total)
        if len(wanted) > self.max_pages:
            raise BadDocument(
                f"The document has {len(wanted):,} pages to read, and the limit is {self.max_pages:,}. Split it, name "
                "a range of pages or raise `max_pages`.",
                code="too_many_pages",
            )
        step = self.pages_per_prompt
        return [tuple(wanted[start : start + step]) for start in range(0, len(wanted), step)]


def plan_plain(settings: Settings) -> RenderPlan:
    """For a document that was submitted by itself: each page a job."""
    return RenderPlan(settings.render_dpi, settings.max_side, settings.max_pages, settings.max_pages)


def plan_pipeline(pipeline: Pipeline, settings: Settings) -> RenderPlan:
    """For a document of a run."""
    render = pipeline.render
    return RenderPlan(
        dpi=render.dpi or settings.render_dpi,
        max_side=render.max_side or settings.max_side,
        most_pages=max(settings.max_pages, pipeline.max_pages or 0),
        max_pages=pipeline.max_pages or settings.max_pages,
        pages=render.pages,
        lossless=render.lossless,
        # Also where the model is asked all the same: an empty answer is a right one then.
        find_blank=True,
        thumbnail_side=settings.thumbnail_side,
        pages_per_prompt=pipeline.pages_per_prompt,
    )
