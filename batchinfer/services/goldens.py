"""Golden prompts of a deployment or a swap as they are stored: the prompts as JSON, their pictures as blobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.errors import BadImage, NotFound
from batchinfer.media.sniff import HEAD_BYTES, PICTURES, sniff
from batchinfer.store.files import Blob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchinfer.domain.goldens import GoldenPrompt, Picture
    from batchinfer.services.context import Caller, Context


#: Prompts as JSON, and the blobs of their pictures, still to be recorded.
StoredGoldens = tuple[list[dict[str, Any]], list[Blob]]


def store_goldens(ctx: Context, caller: Caller, golden: Sequence[GoldenPrompt]) -> StoredGoldens:
    """Golden prompts as they are stored, and their pictures in the blob store, where any host finds them. The caller
    records them. Raises NotFound (code picture_not_kept), BadImage."""
    blobs: dict[str, Blob] = {}
    stored = []
    for one in golden:
        names = [_store_picture(ctx, caller, picture, blobs) for picture in one.pictures]
        stored.append({**one.as_stored(), "pictures": names})
    return stored, list(blobs.values())


def _store_picture(ctx: Context, caller: Caller, picture: Picture, blobs: dict[str, Blob]) -> str:
    data = picture.data
    if picture.sha256 is not None:
        if not ctx.blobs.exists(caller.tenant_id, picture.sha256):
            raise NotFound(
                f"`{picture.param}` names no picture that is kept. Send the picture itself, as a data URL.",
                code="picture_not_kept",
                param=picture.param,
            )
        data = ctx.blobs.read(caller.tenant_id, picture.sha256)
    kind = sniff(data[:HEAD_BYTES])
    if kind not in PICTURES:
        raise BadImage(
            f"`{picture.param}` is not a picture that is read. Send a JPEG, PNG or WebP.",
            code="unsupported_image_media_type",
            param=picture.param,
        )
    sha256 = ctx.blobs.put(DEFAULT_TENANT, data)
    blobs[sha256] = Blob(sha256, len(data), kind)
    return sha256
