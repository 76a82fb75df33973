"""Pictures that a job has as addresses are fetched, and are blobs like any other from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.errors import BadDocument, BadImage
from batchinfer.media.sniff import DOCUMENTS, HEAD_BYTES, PICTURES, name_other, sniff

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchinfer.media.blobs import BlobStore
    from batchinfer.media.fetching import Fetcher
    from batchinfer.services.work import Work


def fetch_images(
    piece: Work, *, blobs: BlobStore, fetcher: Fetcher, scratch: Path, wanted: Callable[[], bool]
) -> list[dict[str, Any]]:
    """The prompt's `images`, those with a `url` with `sha256` and `media_type` too; none where nobody wants them any
    more. An address that is there twice is asked once.

    Raises BadRequest, FetchFailed (another try may pass) and Unavailable (disk full).
    """
    images, found = [], dict[str, dict[str, str]]()
    for index, image in enumerate(piece.prompt["images"]):
        if "url" in image and "sha256" not in image:
            if not wanted():
                return []
            target = scratch / f"{piece.claim.id}-fetched-{index + 1}"
            try:
                if image["url"] not in found:
                    fetcher.fetch(image["url"], target, param=image["param"])
                    media_type = _tell(target, image)
                    sha256 = blobs.put_file(piece.claim.tenant_id, target)
                    found[image["url"]] = {"sha256": sha256, "media_type": media_type}
            finally:
                target.unlink(missing_ok=True)
            image = {**image, **found[image["url"]]}  # noqa: PLW2901 - the same picture, found
        images.append(image)
    return images


def _tell(path: Path, image: dict[str, Any]) -> str:
    """What was fetched, by its first bytes: a picture, or a document where it may stand for its pages."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    found, param = sniff(head), image["param"]
    if found in DOCUMENTS and not image["pages"]:
        raise BadDocument(
            f"`{param}` leads to a PDF or TIFF, which becomes one job a page: send its bytes, or its file_id.",
            code="document_not_alone", param=param,
        )  # fmt: skip
    if found is None or found not in PICTURES | DOCUMENTS:
        other = name_other(head)
        seems = f" It seems to be {other}." if other else ""
        raise BadImage(
            f"`{param}` leads to a file that is not served.{seems} A JPEG, PNG or WebP picture is, or a PDF or TIFF.",
            code="unsupported_image_media_type", param=param,
        )  # fmt: skip
    return found
