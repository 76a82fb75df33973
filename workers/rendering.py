"""A document becomes page jobs: opened and rendered page by page in the sandbox, saved in small groups.

The document's row says how many pages have their jobs, so that rendering goes on there after a crash. Of a run, a page
that cannot be drawn fails alone, and the others go on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.errors import BadDocument, BadImage, BatchinferError, Failure
from batchinfer.services.work import PagePicture, Work
from workers.office import opened_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from batchinfer.domain.rendering import RenderPlan
    from batchinfer.media.blobs import BlobStore
    from batchinfer.media.sandbox import SandboxPool
    from batchinfer.settings import Settings

#: Pages of one transaction, and the longest that a rendered page waits for others.
GROUP_PAGES = 8
GROUP_WAIT_S = 1.0


def render_document(
    piece: Work,
    save: Callable[[Sequence[PagePicture], int], bool],
    *,
    plan: RenderPlan,
    fetch: Callable[[Path], str | None],
    blobs: BlobStore,
    sandbox: SandboxPool,
    settings: Settings,
    scratch: Path,
    wanted: Callable[[], bool],
) -> int | None:
    """Render the pages that are missing; `save(pages, total)` stores them and says whether to go on. `fetch(target)`
    brings the file of a run's document into the blob store, by way of `target`, and answers its SHA-256, or None where
    nothing is left to do.

    Answers how many pages the file has; None where nobody wants them any more. Raises BadDocument or Failure, and
    Unavailable where another try may pass.
    """
    source = _find_source(piece, fetch, blobs, scratch)
    if source is None:
        return None
    if not source.is_file():
        raise Failure("The document is no longer in the store. Submit it again with the file.", code="blob_missing")
    with opened_pages(source, scratch / f"{piece.claim.id}-pages", settings) as pages:
        total = int(sandbox.run("open_document", source=str(pages), max_pages=plan.most_pages)["pages"])
        left = [numbers for numbers in plan.cut(total) if numbers[0] > piece.rendered]
        of_run = piece.document is not None and piece.document.run is not None
        desk = _Desk(piece, pages, plan, blobs, sandbox, settings.max_image_pixels, scratch, alone=of_run)
        for group in _group(desk.draw, left, wanted):
            if not wanted() or not save(group, total):
                return None
    return total if wanted() else None


def _find_source(piece: Work, fetch: Callable[[Path], str | None], blobs: BlobStore, scratch: Path) -> Path | None:
    """Where the file lies; that of a run is brought first, should it not be here."""
    of_run = piece.document is not None and piece.document.run is not None
    if not of_run or (piece.media_type and piece.paths and piece.paths[0].is_file()):
        return piece.paths[0]
    target = scratch / f"{piece.claim.id}-original"
    try:
        sha256 = fetch(target)
    finally:
        target.unlink(missing_ok=True)
    return blobs.path(piece.claim.tenant_id, sha256) if sha256 else None


@dataclass(frozen=True)
class _Desk:
    """Where the pages of one document are drawn. `alone`: one that cannot be drawn is no error of the others."""

    piece: Work
    source: Path
    plan: RenderPlan
    blobs: BlobStore
    sandbox: SandboxPool
    max_pixels: int
    scratch: Path
    alone: bool

    def draw(self, number: int) -> PagePicture:
        try:
            return self._draw(number)
        except (BadDocument, BadImage, Failure) as error:
            # Where the file itself is gone, or another try may pass, it is about all of them.
            if not self.alone or error.retry_helps or error.code in _OF_ALL:
                raise
            return PagePicture(number, "", "", 0, 0, error=_name_page(error, number).as_dict())

    def _draw(self, number: int) -> PagePicture:
        plan, tenant_id = self.plan, self.piece.claim.tenant_id
        target = self.scratch / f"{self.piece.claim.id}-{number}"
        small = target.with_name(f"{target.name}-small") if plan.thumbnail_side else None
        try:
            picture = self.sandbox.run(
                "render_page",
                source=str(self.source),
                page=number,
                target=str(target),
                dpi=plan.dpi,
                max_side=plan.max_side,
                max_pixels=self.max_pixels,
                lossless=plan.lossless,
                thumbnail=str(small) if small else None,
                thumbnail_side=plan.thumbnail_side,
                find_blank=plan.find_blank,
            )
            sha256 = self.blobs.put_file(tenant_id, target)
            kept = picture.get("thumbnail")
            thumbnail = {"sha256": self.blobs.put_file(tenant_id, small), **kept} if small and kept else None
        finally:
            for path in filter(None, (target, small)):
                path.unlink(missing_ok=True)
        size: dict[str, Any] = {name: picture[name] for name in ("media_type", "width", "height")}
        return PagePicture(number, sha256, **size, blank=bool(picture.get("blank")), thumbnail=thumbnail)


_OF_ALL = frozenset({"blob_missing", "storage_error", "document_encrypted"})


def _name_page(error: BatchinferError, number: int) -> BatchinferError:
    return type(error)(f"Page {number}: {error.message}", code=error.code)


def _group(
    draw: Callable[[int], PagePicture], prompts: Iterable[tuple[int, ...]], wanted: Callable[[], bool]
) -> Iterator[list[PagePicture]]:
    """Pages in groups, those of one prompt together; the first prompt goes alone, so that its job starts while the
    others are rendered."""
    group: list[PagePicture] = []
    begun, first = time.monotonic(), True
    for numbers in prompts:
        for number in numbers:
            if not wanted():
                return
            group.append(draw(number))
        if first or len(group) >= GROUP_PAGES or time.monotonic() - begun > GROUP_WAIT_S:
            yield group
            group, begun, first = [], time.monotonic(), False
    if group:
        yield group
