"""A job's pictures, as sent, become what a model sees: checked, turned upright, scaled, in RGB. All in the
sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.errors import BadImage, BatchinferError, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from batchinfer.media.blobs import BlobStore
    from batchinfer.media.sandbox import SandboxPool
    from batchinfer.services.work import Work
    from batchinfer.settings import Settings


def normalise_images(
    piece: Work,
    *,
    blobs: BlobStore,
    sandbox: SandboxPool,
    settings: Settings,
    scratch: Path,
    wanted: Callable[[], bool],
) -> list[dict[str, Any]] | None:
    """The prompt's `images`, each with `normal` filled in. None where nobody wants them any more.

    Raises BadImage or Failure that says which picture, and Unavailable where another try may pass.
    """
    images: list[dict[str, Any]] = []
    for number, (image, path) in enumerate(zip(piece.prompt["images"], piece.paths, strict=True), start=1):
        if not wanted():
            return None
        if image.get("normal"):
            images.append(image)
            continue
        target = scratch / f"{piece.claim.id}-{number}"
        try:
            normal = sandbox.run(
                "normalise",
                source=str(path),
                target=str(target),
                max_pixels=settings.max_image_pixels,
                max_side=settings.max_side,
                max_frames=settings.max_frames,
            )
            sha256 = blobs.put_file(piece.claim.tenant_id, target)
        except (BadImage, Failure) as error:
            raise _name_picture(error, image, number) from None
        finally:
            target.unlink(missing_ok=True)
        images.append({**image, "normal": {"sha256": sha256, **_keep(normal)}})
    return images


def _keep(normal: Mapping[str, Any]) -> dict[str, Any]:
    return {name: normal[name] for name in ("media_type", "width", "height")}


def _name_picture(error: BatchinferError, image: Mapping[str, Any], number: int) -> BatchinferError:
    """The same error, saying which picture of the job it is about."""
    param = image.get("param")
    which = f"`{param}`" if param else f"Image {number}"
    return type(error)(f"{which}: {error.message}", code=error.code, param=param)
