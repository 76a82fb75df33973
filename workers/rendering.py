"""A document becomes page jobs: opened and rendered page by page in the sandbox, saved in small groups.

The document's row says how many pages have their jobs, so that rendering goes on there after a crash.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from batchinfer.errors import Failure
from batchinfer.services.work import PagePicture, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

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
    blobs: BlobStore,
    sandbox: SandboxPool,
    settings: Settings,
    scratch: Path,
    wanted: Callable[[], bool],
) -> bool:
    """Render the pages that are missing; `save(pages, total)` stores them and says whether to go on.

    False where nobody wants them any more. Raises BadDocument or Failure, and Unavailable where another try
    may pass.
    """
    source = piece.paths[0]
    if not source.is_file():
        raise Failure("The document is no longer in the store. Submit it again with the file.", code="blob_missing")
    opened = sandbox.run("open_document", source=str(source), max_pages=settings.max_pages)
    total = int(opened["pages"])

    def render(number: int) -> PagePicture:
        target = scratch / f"{piece.claim.id}-{number}"
        try:
            picture = sandbox.run(
                "render_page",
                source=str(source),
                page=number,
                target=str(target),
                dpi=settings.render_dpi,
                max_side=settings.max_side,
                max_pixels=settings.max_image_pixels,
            )
            sha256 = blobs.put_file(piece.claim.tenant_id, target)
        finally:
            target.unlink(missing_ok=True)
        return PagePicture(number, sha256, picture["media_type"], picture["width"], picture["height"])

    for group in _group(render, range(piece.rendered + 1, total + 1), wanted):
        if not wanted() or not save(group, total):
            return False
    return wanted()


def _group(
    render: Callable[[int], PagePicture], numbers: range, wanted: Callable[[], bool]
) -> Iterator[list[PagePicture]]:
    """Pages in groups; the first page goes alone, so that its job starts while the others are rendered."""
    group: list[PagePicture] = []
    begun, first = time.monotonic(), True
    for number in numbers:
        if not wanted():
            return
        group.append(render(number))
        if first or len(group) >= GROUP_PAGES or time.monotonic() - begun > GROUP_WAIT_S:
            yield group
            group, begun, first = [], time.monotonic(), False
    if group:
        yield group
