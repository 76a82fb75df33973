"""A user's verbs for files: upload, get, list, read, delete."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

from batchinfer.domain.ids import new_id
from batchinfer.errors import NotFound, TooLarge
from batchinfer.media.sniff import DOCUMENTS, HEAD_BYTES, PICTURES, sniff
from batchinfer.services.context import Page
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.store import files
from batchinfer.store import userfiles as store
from batchinfer.store.files import PLAIN, Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from uuid import UUID

    from batchinfer.domain.userfiles import FileRequest, UserFile
    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.session import Transaction

_PIECE_BYTES = 2**18


def upload_file(
    ctx: Context,
    caller: Caller,
    request: FileRequest,
    source: IO[bytes],
    idempotency: Callable[[bytes], Idempotency | None] = lambda _: None,
) -> tuple[UserFile, bool]:
    """Keep the bytes of a stream as a file. Answers it, and whether it is a replay of an earlier request.

    `idempotency` makes the key of this request from the SHA-256 of the bytes. Raises TooLarge (code file_too_large),
    KeyReused, Forbidden, Unavailable.
    """
    caller.require("submit")
    most = ctx.settings.max_file_bytes
    if source.seek(0, os.SEEK_END) > most:
        raise refuse_size(most)
    blob = store_blob(ctx, caller.tenant_id, source)
    key = idempotency(bytes.fromhex(blob.sha256))
    try:
        with ctx.db.transaction() as tx:
            found = find_replay(tx, caller, key)
        if found is not None:
            return _find(ctx, caller, found.resource_id), True
        file_id = new_id()
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, key, "file", file_id)
            files.record_blobs(tx, caller.tenant_id, [blob])
            return insert_file(tx, caller.tenant_id, file_id, request, blob), False
    except Replayed as replay:
        return _find(ctx, caller, replay.found.resource_id), True


def refuse_size(most: int) -> TooLarge:
    """The error for a file over the limit, in bytes."""
    return TooLarge(f"The file is over the limit of {most:,} bytes. Send it as several files.", code="file_too_large")


def store_blob(ctx: Context, tenant_id: UUID, source: IO[bytes]) -> Blob:
    """Put a stream into the blob store, in pieces; told by its first bytes. Raises Unavailable (disk full)."""
    size_bytes = source.seek(0, os.SEEK_END)
    source.seek(0)
    head = source.read(HEAD_BYTES)
    return make_blob(ctx.blobs.put_stream(tenant_id, source), size_bytes, head)


def make_blob(sha256: str, size_bytes: int, head: bytes) -> Blob:
    """A blob that is told by its first bytes."""
    found = sniff(head)
    return Blob(sha256, size_bytes, found if found in PICTURES | DOCUMENTS else PLAIN)


def store_pieces(ctx: Context, tenant_id: UUID, pieces: Iterable[bytes]) -> Blob:
    """The same for bytes that come once. Raises Unavailable (disk full), and what `pieces` raises."""
    sha256 = ctx.blobs.put_pieces(tenant_id, pieces)
    with ctx.blobs.open(tenant_id, sha256) as file:
        return make_blob(sha256, ctx.blobs.size_bytes(tenant_id, sha256), file.read(HEAD_BYTES))


def insert_file(tx: Transaction, tenant_id: UUID, file_id: UUID, request: FileRequest, blob: Blob) -> UserFile:
    """The file of a blob that this transaction has recorded."""
    return store.insert_file(
        tx,
        file_id,
        tenant_id,
        filename=request.filename,
        purpose=request.purpose,
        blob=blob.sha256,
        size_bytes=blob.size_bytes,
        expires_s=request.expires_s,
    )


def make_missing() -> NotFound:
    """The error for a file that is not there."""
    return NotFound("No file with this id. It may have been deleted, or its time is over.", code="file_not_found")


def _find(ctx: Context, caller: Caller, file_id: UUID) -> UserFile:
    with ctx.db.transaction() as tx:
        found = store.find_file(tx, caller.tenant_id, file_id)
    if found is None:
        raise make_missing()
    return found


def get_file(ctx: Context, caller: Caller, file_id: UUID) -> UserFile:
    """The file. Raises NotFound (code file_not_found)."""
    caller.require("read")
    return _find(ctx, caller, file_id)


def list_files(
    ctx: Context,
    caller: Caller,
    *,
    purpose: str | None = None,
    after: UUID | None = None,
    oldest_first: bool = False,
    limit: int = 20,
) -> Page[UserFile]:
    """Files, newest first unless said otherwise, beginning behind the id `after`."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        found = store.list_files(
            tx, caller.tenant_id, purpose=purpose, after=after, oldest_first=oldest_first, limit=limit + 1
        )
    return Page.cut(found, limit, backwards=False)


def open_file(ctx: Context, caller: Caller, file_id: UUID) -> tuple[UserFile, Iterator[bytes]]:
    """The file and its bytes in pieces; nothing is open before the first. Raises NotFound, also where the bytes are
    gone from the blob store."""
    found = get_file(ctx, caller, file_id)
    if not ctx.blobs.exists(caller.tenant_id, found.blob):
        raise make_missing()
    return found, _read_pieces(ctx, found)


def _read_pieces(ctx: Context, file: UserFile) -> Iterator[bytes]:
    with ctx.blobs.open(file.tenant_id, file.blob) as source:
        while piece := source.read(_PIECE_BYTES):
            yield piece


def delete_file(ctx: Context, caller: Caller, file_id: UUID) -> None:
    """Delete a file; upkeep removes its bytes. A batch that was made of it goes on. Raises NotFound."""
    caller.require("submit")
    with ctx.db.transaction() as tx:
        if not store.delete_file(tx, caller.tenant_id, file_id):
            raise make_missing()
