"""A job's pictures, as sent, become what a model sees: checked, turned upright, scaled, in RGB. All in the
sandbox. A document that stands for its pages in one prompt becomes a picture a page; what is sent as an address is
fetched first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.domain.quality import list_own_pages, needs_drawing, read_quality
from batchinfer.errors import BadDocument, BadImage, BatchinferError, Failure
from batchinfer.media.sniff import DOCUMENTS
from batchinfer.observe.logs import get_logger
from workers.fetching import fetch_images

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from batchinfer.media.blobs import BlobStore
    from batchinfer.media.fetching import Fetcher
    from batchinfer.media.sandbox import SandboxPool
    from batchinfer.services.work import Work
    from batchinfer.settings import Settings

_log = get_logger(__name__)


def normalise_images(
    piece: Work,
    *,
    blobs: BlobStore,
    sandbox: SandboxPool,
    fetcher: Fetcher,
    settings: Settings,
    scratch: Path,
    wanted: Callable[[], bool],
) -> list[dict[str, Any]] | None:
    """The prompt's `images`, each with `normal` filled in. None where nobody wants them any more.

    Raises BadRequest or Failure that says which picture, and FetchFailed or Unavailable where another try may pass.
    """
    images: list[dict[str, Any]] = []
    sent = fetch_images(piece, blobs=blobs, fetcher=fetcher, scratch=scratch, wanted=wanted)
    expands = any(image.get("media_type") in DOCUMENTS for image in sent)
    desk = _Desk(piece, blobs, sandbox, settings, scratch)
    for index, image in enumerate(sent):
        if not wanted():
            return None
        if image.get("normal"):
            images.append(image)
            continue
        try:
            if needs_drawing(image):
                images.append(desk.draw(image, index))
                continue
            path = blobs.path(piece.claim.tenant_id, image["sha256"])
            if image.get("media_type") in DOCUMENTS:
                room = settings.max_images - len(images) - (len(sent) - index - 1)
                found = desk.render_pages(image, path, index, max_pages=max(room, 0), wanted=wanted)
            else:
                found = [desk.normalise(image, path, index)]
        except (BadImage, BadDocument, Failure) as error:
            raise _name_picture(error, image, index + 1) from None
        images += [{**picture, "upload": index} for picture in found] if expands else found
    return images if wanted() else None


def read_own_text(piece: Work, sandbox: SandboxPool) -> str:
    """What the document of a prompt's pages says itself, page after page; empty where it says nothing, or cannot be
    read. Raises Unavailable where another try may pass."""
    quality = read_quality(piece.prompt)
    source = piece.documents.get(quality.document or "") if quality else None
    if source is None or not source.is_file():
        return ""
    texts = []
    for page in list_own_pages(piece.prompt["images"]):
        try:
            texts.append(str(sandbox.run("read_text", source=str(source), page=page)["text"]).strip())
        except (BadDocument, BadImage, Failure) as error:
            _log.warning("a page's own text cannot be read", code=error.code, **piece.claim.tags)
    return "\n\n".join(filter(None, texts))


@dataclass(frozen=True)
class _Desk:
    """Where the pictures of one job are made."""

    piece: Work
    blobs: BlobStore
    sandbox: SandboxPool
    settings: Settings
    scratch: Path

    def normalise(self, image: Mapping[str, Any], path: Path, index: int) -> dict[str, Any]:
        """A picture as a model sees it."""
        settings = self.settings
        return self._make(
            image, f"{index + 1}", "normalise", source=str(path), max_pixels=settings.max_image_pixels,
            max_side=settings.max_side, max_frames=settings.max_frames,
        )  # fmt: skip

    def render_pages(
        self, image: Mapping[str, Any], path: Path, index: int, *, max_pages: int, wanted: Callable[[], bool]
    ) -> list[dict[str, Any]]:
        """The pages of a document as pictures of one prompt, as far as somebody wants them."""
        settings = self.settings
        if max_pages < 1 or not path.is_file():
            raise _no_room(settings.max_images) if path.is_file() else _gone()
        total = int(self.sandbox.run("open_document", source=str(path), max_pages=max_pages)["pages"])
        return [
            self._make(
                {**image, "page": page}, f"{index + 1}-{page}", "render_page", source=str(path), page=page,
                dpi=settings.render_dpi, max_side=settings.max_side, max_pixels=settings.max_image_pixels,
            )
            for page in range(1, total + 1) if wanted()
        ]  # fmt: skip

    def draw(self, image: Mapping[str, Any], index: int) -> dict[str, Any]:
        """A page of a document, made anew as its `render` says: dpi, max_side, rotate and lossless, any of them."""
        source, asked = self.piece.documents.get(image["document"]), image.get("render") or {}
        if source is None or not source.is_file():
            raise _gone()
        settings = self.settings
        return self._make(
            image, f"{index + 1}", "render_page", source=str(source), page=image["page"],
            dpi=asked.get("dpi") or settings.render_dpi, max_side=asked.get("max_side") or settings.max_side,
            max_pixels=settings.max_image_pixels, rotate=asked.get("rotate") or 0,
            lossless=bool(asked.get("lossless")),
        )  # fmt: skip

    def _make(self, image: Mapping[str, Any], name: str, operation: str, **arguments: Any) -> dict[str, Any]:
        """`image` with `normal`: the picture that the sandbox made, in the blob store."""
        target = self.scratch / f"{self.piece.claim.id}-{name}"
        try:
            normal = self.sandbox.run(operation, target=str(target), **arguments)
            sha256 = self.blobs.put_file(self.piece.claim.tenant_id, target)
        finally:
            target.unlink(missing_ok=True)
        return {**image, "normal": {"sha256": sha256, **_keep(normal)}}


def _no_room(max_images: int) -> BadDocument:
    return BadDocument(
        f"The pages of the document and the other files are more than the {max_images} pictures that a request may "
        "bring. Send it alone, or fewer pages.",
        code="too_many_pages",
    )


def _gone() -> Failure:
    return Failure("The document is no longer in the store. Send the request again with the file.", code="blob_missing")


def _keep(normal: Mapping[str, Any]) -> dict[str, Any]:
    return {name: normal[name] for name in ("media_type", "width", "height")}


def _name_picture(error: BatchinferError, image: Mapping[str, Any], number: int) -> BatchinferError:
    """The same error, saying which picture of the job it is about."""
    param = image.get("param")
    which = f"`{param}`" if param else f"Image {number}"
    return type(error)(f"{which}: {error.message}", code=error.code, param=param)
