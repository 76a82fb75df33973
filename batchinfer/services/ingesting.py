"""The file of a run's document is read for the first time: from its source into the blob store, and told by its first
bytes. One that has changed since it was listed fails alone."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING
from uuid import UUID

from batchinfer.domain import ids
from batchinfer.domain.sources import Incremental
from batchinfer.errors import BadDocument, Failure, FetchFailed, Unavailable
from batchinfer.media import sources
from batchinfer.media.office import tell_office_file
from batchinfer.media.sniff import DOCUMENTS, HEAD_BYTES, PICTURES, name_other, sniff
from batchinfer.services import pumping
from batchinfer.services.files import find_installed_office, record_made
from batchinfer.services.plans import find_most_bytes
from batchinfer.services.sweeping import ERASE_WAIT_S
from batchinfer.store import batches, documents, endings, ledger, userfiles
from batchinfer.store import closing as store
from batchinfer.store.minutes import Tally
from batchinfer.store.unchanged import find_same_content

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim
    from batchinfer.store.documents import Rendering
    from batchinfer.store.session import Transaction

_CHUNK_BYTES = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Original:
    """A document's file in the blob store."""

    sha256: str
    media_type: str


def fetch_original(ctx: Context, claim: Claim, document: Rendering, target: Path) -> str | None:
    """Bring the file into the blob store, by way of `target`, and answer its SHA-256; the document knows it then.

    None where nothing is left to do: the fence refused, or an earlier run has read the same bytes, and the document is
    left out. Raises BadDocument (`source_changed`, `unsupported_document_type`, `document_too_large`,
    `document_parse_error`), Failure (`source_not_found`, `source_forbidden`, `blob_missing`), FetchFailed and
    Unavailable where another try may pass.
    """
    original = bring_original(ctx, document, target)
    tally = Tally()
    with ctx.db.transaction() as tx:
        held = documents.hold_rendering(tx, lease_id=claim.lease_id, claim=claim)
        if held is None:
            return None
        record_made(ctx, tx, document.tenant_id, [(original.sha256, original.media_type)])
        documents.set_original(tx, document.id, blob=original.sha256, media_type=original.media_type)
        skipped = _skip(tx, claim, replace(held, blob=original.sha256), tally)
        tally.add(tx)
    if skipped and held.run is not None:
        ctx.announcer.announce_cpu([held.run.id])
        pumping.pump(ctx, held.run.id)
    return None if skipped else original.sha256


def _skip(tx: Transaction, claim: Claim, document: Rendering, tally: Tally) -> bool:
    """Leave a document out whose bytes an earlier run with the same recipe has read, where this run asks for that."""
    run = document.run
    if run is None or (run.spec.get("source") or {}).get("incremental") != Incremental.CONTENT or document.jobs:
        return False
    if document.uri is None or document.blob is None or run.recipe is None:
        return False
    same = find_same_content(
        tx, tenant_id=document.tenant_id, recipe=run.recipe, uri=document.uri, sha256=document.blob
    )
    if same is None:
        return False
    same_as = same.document_id
    ledger.enter(tx, document, same_as=same_as)
    ledger.mark_skipped(tx, document, same_as)
    store.let_go(tx, document.tenant_id, list_originals(document), wait_s=ERASE_WAIT_S)
    batches.open_lines(tx, run.id, opened=-1)
    ledger.count_skipped(tx, run.id)
    endings.finish(tx, lease_id=claim.lease_id, claim=claim)
    tally.count_line(run.id)
    return True


def list_originals(document: Rendering) -> list[str]:
    """The file of a document, where that can be had from its source again. An uploaded one is the file's."""
    uploaded = document.uri is None or document.uri.startswith(ids.FILE)
    return [] if uploaded or document.blob is None else [document.blob]


def bring_again(ctx: Context, tenant_id: UUID, document_id: UUID, target: Path) -> Path:
    """Where the file of a document lies, some of whose pages are wanted anew. One that was let go of is read from its
    source once more, the same bytes or none, and stays for some minutes. Raises as `fetch_original`."""
    with ctx.db.transaction() as tx:
        document = documents.load_renderings(tx, [document_id]).get(document_id)
    if document is None or document.tenant_id != tenant_id:
        raise Failure("The document is no longer stored. Submit it again with the file.", code="blob_missing")
    original = bring_original(ctx, document, target)
    if document.stage in ("closed", "skipped"):
        with ctx.db.transaction() as tx:
            record_made(ctx, tx, tenant_id, [(original.sha256, original.media_type)])
            store.let_go(tx, tenant_id, list_originals(document), wait_s=ERASE_WAIT_S)
    return ctx.blobs.path(tenant_id, original.sha256)


def bring_original(ctx: Context, document: Rendering, target: Path) -> Original:
    """The file, in the blob store: it is there already, or is read from its source."""
    if document.blob is not None and ctx.blobs.keep(document.tenant_id, document.blob):
        place = ctx.blobs.path(document.tenant_id, document.blob)
        return Original(document.blob, document.media_type or _tell(ctx, place))
    uri = document.uri
    if uri is None:
        raise Failure("The document is no longer in the store. Submit it again with the file.", code="blob_missing")
    if uri.startswith(ids.FILE):
        return _find_upload(ctx, document, ids.parse_id(ids.FILE, uri))
    # Of one that was read before, the bytes alone decide.
    if document.blob is None:
        _check_stamp(ctx, document, uri)
    _copy(ctx, document, uri, target)
    if document.blob is None:
        _check_stamp(ctx, document, uri)
    media_type = _tell(ctx, target)
    sha256 = ctx.blobs.put_file(document.tenant_id, target)
    if document.blob not in (None, sha256):
        raise _changed()
    return Original(sha256, media_type)


def _find_upload(ctx: Context, document: Rendering, file_id: UUID) -> Original:
    """The blob of an uploaded file: it is the document's too."""
    with ctx.db.transaction() as tx:
        file = userfiles.find_source(tx, document.tenant_id, file_id)
    if file is None or not ctx.blobs.keep(document.tenant_id, file.blob):
        raise Failure("The uploaded file is gone. Upload it again and name it in a new run.", code="source_not_found")
    return Original(file.blob, _tell(ctx, ctx.blobs.path(document.tenant_id, file.blob)))


def _check_stamp(ctx: Context, document: Rendering, uri: str) -> None:
    with _reading():
        size_bytes, stamp = sources.read_stamp(uri, ctx.settings)
    for listed, found in ((document.size_bytes, size_bytes), (document.stamp, stamp)):
        if listed is not None and found is not None and listed != found:
            raise _changed()


def _changed() -> BadDocument:
    return BadDocument(
        "The file has changed since it was listed. The next run reads it as it is then.", code="source_changed"
    )


def _copy(ctx: Context, document: Rendering, uri: str, target: Path) -> None:
    left = most_bytes = find_most_bytes(ctx, document)
    with _reading(), sources.open_source(uri, ctx.settings) as source, target.open("wb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise BadDocument(
                    f"The file has more than {most_bytes:,} bytes, the limit. Split it, or raise `max_bytes` of the "
                    "source and the setting `max_file_bytes`.",
                    code="document_too_large",
                )
            _write(copy, chunk)


def _write(copy: IO[bytes], chunk: bytes) -> None:
    try:
        copy.write(chunk)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise Unavailable(
            "The disk that keeps the files is full. Free some space on it.", code="storage_full", retry_after_s=60
        ) from None


@contextmanager
def _reading() -> Iterator[None]:
    """What a source says when it cannot be read, as our own errors; its text may hold an address and is dropped."""
    try:
        yield
    except FileNotFoundError:
        raise Failure("The file is no longer where it was listed.", code="source_not_found") from None
    except (PermissionError, IsADirectoryError):
        raise Failure(
            "The source refuses this file. Let the workers' user, or the credentials that they have, read it.",
            code="source_forbidden",
        ) from None
    except OSError:
        raise FetchFailed("The source did not give the file. It is tried again.", code="source_unreachable") from None


def _tell(ctx: Context, path: Path) -> str:
    """The media type by the first bytes. Raises BadDocument for what is not served."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise BadDocument("The file is empty (0 bytes).", code="document_parse_error")
    found = sniff(head)
    if found in DOCUMENTS | PICTURES:
        return found
    office = tell_office_file(path)
    if office is not None and find_installed_office(ctx.settings) is not None:
        return office
    other = name_other(head)
    seems = f" It seems to be {other}." if other else ""
    hint = " Office documents are, where LibreOffice is installed (the setting office_command)." if office else ""
    raise BadDocument(
        f"The file is of a kind that is not served.{seems} PDF, TIFF, JPEG, PNG and WebP are.{hint}",
        code="unsupported_document_type",
    )
