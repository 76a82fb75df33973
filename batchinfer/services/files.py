"""Files as they arrive: told by their first bytes, stored unopened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.errors import BadImage, BadRequest, Unsupported
from batchinfer.media.sniff import DOCUMENTS, HEAD_BYTES, PICTURES, name_other, sniff
from batchinfer.store import files
from batchinfer.store.files import Blob

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.domain.prompts import Upload
    from batchinfer.services.context import Context
    from batchinfer.store.session import Transaction

_SERVED = "Send a JPEG, PNG or WebP picture, or a PDF or TIFF document"


def find_document_type(uploads: Sequence[Upload]) -> str | None:
    """The media type of the request's only file where that is a document; None where all are pictures (or none is).

    Raises BadImage (an empty file), Unsupported (415, the file's field in `param`), BadRequest (a document among
    other files).
    """
    types = [_tell(upload) for upload in uploads]
    document = next((index for index, found in enumerate(types) if found in DOCUMENTS), None)
    if document is None:
        return None
    if len(types) > 1:
        raise BadRequest(
            "A PDF or TIFF becomes one job a page, so it must be the only file of its request. Send it alone, or send "
            "its pages as pictures.",
            code="document_not_alone",
            param=uploads[document].param,
        )
    return types[document]


def _tell(upload: Upload) -> str:
    if not upload.data:
        raise BadImage(f"The file in {upload.param} is empty. {_SERVED}.", code="empty_image_file", param=upload.param)
    found = sniff(upload.data[:HEAD_BYTES])
    if found is None or found not in PICTURES | DOCUMENTS:
        other = name_other(upload.data[:HEAD_BYTES])
        seems = f" It seems to be {other}." if other else ""
        raise Unsupported(
            f"The file in {upload.param} is of a kind that is not served.{seems} {_SERVED}.",
            param=upload.param,
        )
    return found


def record_made(ctx: Context, tx: Transaction, tenant_id: UUID, made: Sequence[tuple[str, str]]) -> None:
    """Note pictures (SHA-256 and media type) that a CPU worker has stored, in the transaction that refers to them."""
    there = [(sha256, kind) for sha256, kind in made if ctx.blobs.exists(tenant_id, sha256)]
    files.record_blobs(
        tx, tenant_id, [Blob(sha256, ctx.blobs.size_bytes(tenant_id, sha256), kind) for sha256, kind in there]
    )


def store_uploads(ctx: Context, tenant_id: UUID, uploads: Sequence[Upload]) -> list[Blob]:
    """Put files into the blob store, in order; the same bytes again take no room. Raises Unavailable (disk full)."""
    return [
        Blob(ctx.blobs.put(tenant_id, upload.data), len(upload.data), sniff(upload.data[:HEAD_BYTES]) or "")
        for upload in uploads
    ]
