"""Files as they arrive: told by their first bytes, stored unopened; and those that a request names by their id."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchinfer.domain.messages import Stored, make_no_file
from batchinfer.domain.userfiles import USER_DATA, VISION
from batchinfer.errors import BadImage, BadRequest, Unsupported
from batchinfer.media.office import SUFFIXES, TAIL_BYTES, find_office, tell_office, tell_office_file
from batchinfer.media.sniff import DOCUMENTS, HEAD_BYTES, PICTURES, name_other, sniff
from batchinfer.store import files, userfiles
from batchinfer.store.files import Blob

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.domain.prompts import Upload
    from batchinfer.domain.userfiles import UserFile
    from batchinfer.media.office import Office
    from batchinfer.services.context import Context
    from batchinfer.settings import Settings
    from batchinfer.store.session import Transaction

_SERVED = "Send a JPEG, PNG or WebP picture, or a PDF or TIFF document"


def find_document_type(uploads: Sequence[Upload]) -> str | None:
    """The media type of the request's only file where that is a document; None where all are pictures (or none is).

    What an address leads to counts as a picture. Raises BadImage (an empty file), Unsupported (415, the file's field
    in `param`), BadRequest (a document among other files).
    """
    types = [find_type(upload) for upload in uploads]
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


def find_office_type(ctx: Context, tenant_id: UUID, uploads: Sequence[Upload]) -> str | None:
    """The media type of the request's only file where that is an office document; None where it is none.

    Raises Unsupported (415) where no LibreOffice is installed.
    """
    upload = uploads[0] if len(uploads) == 1 else None
    if upload is None or upload.url is not None:
        return None
    stored = upload.stored
    found = (
        tell_office(upload.data[:HEAD_BYTES], upload.data[-TAIL_BYTES:])
        if stored is None
        else tell_office_file(ctx.blobs.path(tenant_id, stored.sha256))
    )
    if found is not None and find_installed_office(ctx.settings) is None:
        raise Unsupported(
            f"The file in {upload.param} is an office document, and none is read here: LibreOffice is not installed. "
            "Let the operator install it (the setting office_command), or send a PDF.",
            param=upload.param,
        )
    return found


def find_installed_office(settings: Settings) -> Office | None:
    """LibreOffice as the settings name it, or None."""
    return find_office(
        settings.office_command, timeout_s=settings.office_timeout_s, memory_mib=settings.office_memory_mib
    )


def find_type(upload: Upload) -> str | None:
    """The media type of a file, by its first bytes; None where they are still to be fetched. Raises as above."""
    if upload.url is not None:
        return None
    if upload.stored is not None and upload.stored.media_type not in SUFFIXES:
        return upload.stored.media_type
    return tell(b"PK\x03\x04" if upload.stored else upload.data[:HEAD_BYTES], upload.param)


def tell(head: bytes, param: str) -> str:
    """The media type of a picture or document that begins so. Raises BadImage (nothing at all), Unsupported."""
    if not head:
        raise BadImage(f"The file in {param} is empty. {_SERVED}.", code="empty_image_file", param=param)
    found = sniff(head)
    if found is None or found not in PICTURES | DOCUMENTS:
        other = name_other(head)
        seems = f" It seems to be {other}." if other else ""
        raise Unsupported(f"The file in {param} is of a kind that is not served.{seems} {_SERVED}.", param=param)
    return found


def pin_files(
    ctx: Context, tenant_id: UUID, uploads: Sequence[Upload], *, deleted_too: bool = False
) -> tuple[Upload, ...]:
    """The same uploads, those that name a file with where its bytes lie. These are not removed for the grace time, in
    which a job may come to refer to them: so that a job does not lose what it reads when the file is deleted.

    `deleted_too` for files that were found before. Raises NotFound (code file_not_found, `param`), BadRequest (code
    invalid_file_purpose), and what `find_document_type` raises about their bytes.
    """
    ids = {upload.file_id for upload in uploads if upload.file_id is not None}
    if not ids:
        return tuple(uploads)
    find = userfiles.find_source if deleted_too else userfiles.find_file
    with ctx.db.transaction() as tx:
        found = {file_id: find(tx, tenant_id, file_id) for file_id in ids}
    pinned = tuple(
        upload if upload.file_id is None else _look_up(ctx, upload, found[upload.file_id]) for upload in uploads
    )
    stored = [upload.stored for upload in pinned if upload.file_id is not None and upload.stored is not None]
    with ctx.db.transaction() as tx:
        files.record_blobs(tx, tenant_id, [Blob(one.sha256, one.size_bytes, one.media_type) for one in stored])
        for upload in pinned:
            if upload.stored is not None and not ctx.blobs.keep(tenant_id, upload.stored.sha256):
                raise make_no_file(upload.param)
    return pinned


def _look_up(ctx: Context, upload: Upload, file: UserFile | None) -> Upload:
    if file is None or not ctx.blobs.exists(file.tenant_id, file.blob):
        raise make_no_file(upload.param)
    if file.purpose not in (USER_DATA, VISION):
        raise BadRequest(
            f"`{upload.param}` names a file for {file.purpose}. Upload it with `purpose` {USER_DATA} or {VISION}.",
            code="invalid_file_purpose",
            param=upload.param,
        )
    with ctx.blobs.open(file.tenant_id, file.blob) as source:
        head = source.read(HEAD_BYTES)
    office = tell_office_file(ctx.blobs.path(file.tenant_id, file.blob))
    media_type = office or tell(head, upload.param)
    stored = Stored(file.blob, file.size_bytes, media_type)
    return replace(upload, filename=upload.filename or file.filename, stored=stored)


def record_made(ctx: Context, tx: Transaction, tenant_id: UUID, made: Sequence[tuple[str, str]]) -> None:
    """Note pictures (SHA-256 and media type) that a CPU worker has stored, in the transaction that refers to them."""
    there = [(sha256, kind) for sha256, kind in made if ctx.blobs.exists(tenant_id, sha256)]
    files.record_blobs(
        tx, tenant_id, [Blob(sha256, ctx.blobs.size_bytes(tenant_id, sha256), kind) for sha256, kind in there]
    )


def store_uploads(ctx: Context, tenant_id: UUID, uploads: Sequence[Upload]) -> list[Blob | None]:
    """Put files into the blob store, in order; the same bytes again take no room. None for one that is still to be
    fetched. Raises Unavailable (disk full)."""
    return [_store(ctx, tenant_id, upload) for upload in uploads]


def _store(ctx: Context, tenant_id: UUID, upload: Upload) -> Blob | None:
    if upload.url is not None:
        return None
    if upload.stored is not None:
        return Blob(upload.stored.sha256, upload.stored.size_bytes, upload.stored.media_type)
    sha256 = ctx.blobs.put(tenant_id, upload.data)
    return Blob(sha256, len(upload.data), sniff(upload.data[:HEAD_BYTES]) or "")


def list_there(blobs: Sequence[Blob | None]) -> list[Blob]:
    """Those that are in the blob store."""
    return [blob for blob in blobs if blob is not None]
