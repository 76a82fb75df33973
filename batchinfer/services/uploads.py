"""A user's verbs for files that come in parts: begin, add a part, complete, cancel."""

from __future__ import annotations

import hashlib
import os
from typing import IO, TYPE_CHECKING, NoReturn

from batchinfer.domain.fields import join, refuse
from batchinfer.domain.ids import UPLOAD, UPLOAD_PART, new_id, parse_id, show_id
from batchinfer.domain.uploads import MAX_PARTS, Completion, UploadState, UserPart, UserUpload
from batchinfer.domain.userfiles import FileRequest
from batchinfer.errors import BadRequest, NotFound, TooLarge
from batchinfer.media.sniff import HEAD_BYTES
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.services.userfiles import insert_file, make_blob
from batchinfer.store import files, userfiles
from batchinfer.store import uploads as store
from batchinfer.store.files import PLAIN, Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from batchinfer.domain.uploads import UploadRequest
    from batchinfer.domain.userfiles import UserFile
    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.session import Transaction

_PIECE_BYTES = 2**20
#: So often may the bytes of a file come, in parts that differ: room for parts that were sent wrong.
_TIMES = 2


def begin_upload(
    ctx: Context, caller: Caller, request: UploadRequest, idempotency: Idempotency | None = None
) -> tuple[UserUpload, bool]:
    """An upload without parts, and whether it is a replay of an earlier request. Raises KeyReused, Forbidden."""
    caller.require("submit")
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return find_own(ctx, caller, found.resource_id), True
    upload_id = new_id()
    try:
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, idempotency, "upload", upload_id)
            seconds = ctx.settings.upload_hours * 3600
            return store.insert_upload(tx, upload_id, caller.tenant_id, request, seconds=seconds), False
    except Replayed as replay:
        return find_own(ctx, caller, replay.found.resource_id), True


def find_own(ctx: Context, caller: Caller, upload_id: UUID) -> UserUpload:
    """The caller's upload. Raises NotFound (code upload_not_found)."""
    with ctx.db.transaction() as tx:
        return _require(store.find_upload(tx, caller.tenant_id, upload_id))


def _require(upload: UserUpload | None) -> UserUpload:
    if upload is None:
        raise NotFound("No upload with this id. It may have been removed after its time.", code="upload_not_found")
    return upload


def _require_pending(upload: UserUpload) -> UserUpload:
    if upload.status is not UploadState.PENDING:
        raise BadRequest(
            f"Upload {show_id(UPLOAD, upload.id)} is {upload.status} and takes nothing more. Begin another one.",
            code="upload_not_pending",
        )
    return upload


def add_part(
    ctx: Context,
    caller: Caller,
    upload_id: UUID,
    source: IO[bytes],
    idempotency: Callable[[bytes], Idempotency | None] = lambda _: None,
) -> tuple[UserPart, bool]:
    """Keep some bytes of a file. Answers the part, and whether it is a replay of an earlier request.

    `idempotency` makes the key of this request from the SHA-256 of the bytes. Raises NotFound, BadRequest (code
    upload_not_pending), TooLarge (code part_too_large, too_many_parts), KeyReused, Forbidden, Unavailable.
    """
    caller.require("submit")
    size_bytes, most = source.seek(0, os.SEEK_END), ctx.settings.max_part_bytes
    if size_bytes > most:
        raise TooLarge(f"The part is over the limit of {most:,} bytes. Send smaller ones.", code="part_too_large")
    if not size_bytes:
        refuse("data", "is empty: 0 bytes. Send some of the file.")
    find_own(ctx, caller, upload_id)  # nothing is written for what does not exist
    blob = Blob(ctx.blobs.put_stream(caller.tenant_id, source), size_bytes, PLAIN)
    key = idempotency(bytes.fromhex(blob.sha256))
    try:
        with ctx.db.transaction() as tx:
            found = find_replay(tx, caller, key)
            if found is not None:
                return _find_part(tx, caller, upload_id, found.resource_id), True
        part_id = new_id()
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, key, "upload_part", part_id)
            upload = _require_pending(_require(store.find_upload(tx, caller.tenant_id, upload_id, lock=True)))
            files.record_blobs(tx, caller.tenant_id, [blob])
            part = store.insert_part(tx, part_id, upload, blob)
            _check_room(tx, upload)
            return part, False
    except Replayed as replay:
        with ctx.db.transaction() as tx:
            return _find_part(tx, caller, upload_id, replay.found.resource_id), True


def _check_room(tx: Transaction, upload: UserUpload) -> None:
    """Refuse what fills the disk beyond what was said."""
    parts, size_bytes = store.measure_parts(tx, upload.id)
    if parts > MAX_PARTS or size_bytes > _TIMES * upload.size_bytes:
        raise TooLarge(
            f"The parts are more than {MAX_PARTS:,}, or have over {_TIMES} times the {upload.size_bytes:,} bytes that "
            "the upload was begun with. Begin another one.",
            code="too_many_parts",
        )


def _find_part(tx: Transaction, caller: Caller, upload_id: UUID, part_id: UUID) -> UserPart:
    found = store.find_parts(tx, caller.tenant_id, upload_id, [part_id])
    if not found:
        _require(None)
    return found[part_id]


def complete_upload(ctx: Context, caller: Caller, upload_id: UUID, asked: Completion) -> UserUpload:
    """Make a file of the parts in the order that is asked for; what is completed already stays as it is.

    Raises NotFound, BadRequest (codes upload_not_pending, part_not_found, upload_size_mismatch, md5_mismatch),
    Forbidden, Unavailable. After any of them the upload is as it was.
    """
    caller.require("submit")
    with ctx.db.transaction() as tx:
        upload = _require(store.find_upload(tx, caller.tenant_id, upload_id))
        if upload.status is UploadState.COMPLETED:
            return upload
        parts = _order_parts(tx, _require_pending(upload), asked.part_ids)
    blob = _join_parts(ctx, upload, parts, asked.md5)
    file_id = new_id()
    with ctx.db.transaction() as tx:
        files.record_blobs(tx, caller.tenant_id, [blob])
        if store.end_upload(tx, caller.tenant_id, upload_id, UploadState.COMPLETED, file_id=file_id):
            insert_file(tx, caller.tenant_id, file_id, _find_request(upload), blob)
        upload = _require(store.find_upload(tx, caller.tenant_id, upload_id))
    return upload if upload.status is UploadState.COMPLETED else _require_pending(upload)


def _find_request(upload: UserUpload) -> FileRequest:
    return FileRequest(upload.filename, upload.purpose, upload.file_expires_s)


def _order_parts(tx: Transaction, upload: UserUpload, named: Sequence[str]) -> list[UserPart]:
    ids = []
    for index, name in enumerate(named):
        try:
            ids.append(parse_id(UPLOAD_PART, name))
        except NotFound:
            _refuse_part(index)
    found = store.find_parts(tx, upload.tenant_id, upload.id, ids)
    for index, part_id in enumerate(ids):
        if part_id not in found:
            _refuse_part(index)
    total = sum(found[part_id].size_bytes for part_id in ids)
    if total != upload.size_bytes:
        refuse(
            "part_ids",
            f"name parts of {total:,} bytes together; the upload was begun with {upload.size_bytes:,}. Name every part "
            "of the file once.",
            "upload_size_mismatch",
        )
    return [found[part_id] for part_id in ids]


def _refuse_part(index: int) -> NoReturn:
    refuse(join("part_ids", index), "is no part of this upload. Parts are named as they came back.", "part_not_found")


def _join_parts(ctx: Context, upload: UserUpload, parts: Sequence[UserPart], md5: str | None) -> Blob:
    """The bytes of the parts as one blob, in pieces from disk to disk."""

    def read_pieces() -> Iterator[bytes]:
        digest = hashlib.md5(usedforsecurity=False)
        for part in parts:
            with ctx.blobs.open(upload.tenant_id, part.blob) as source:
                while piece := source.read(_PIECE_BYTES):
                    digest.update(piece)
                    yield piece
        if md5 is not None and digest.hexdigest() != md5:
            refuse("md5", "is not that of the parts in this order. Send the file again.", "md5_mismatch")

    sha256 = ctx.blobs.put_pieces(upload.tenant_id, read_pieces())
    with ctx.blobs.open(upload.tenant_id, sha256) as whole:
        return make_blob(sha256, upload.size_bytes, whole.read(HEAD_BYTES))


def cancel_upload(ctx: Context, caller: Caller, upload_id: UUID) -> UserUpload:
    """Take no more parts; upkeep removes those that came. Twice is as once.

    Raises NotFound, BadRequest (code upload_not_pending) where it was completed or its time is over.
    """
    caller.require("submit")
    with ctx.db.transaction() as tx:
        upload = _require(store.find_upload(tx, caller.tenant_id, upload_id, lock=True))
        if upload.status is UploadState.CANCELLED:
            return upload
        _require_pending(upload)
        store.end_upload(tx, caller.tenant_id, upload_id, UploadState.CANCELLED)
        return _require(store.find_upload(tx, caller.tenant_id, upload_id))


def find_made_file(ctx: Context, caller: Caller, upload: UserUpload) -> UserFile | None:
    """The file that an upload was completed into; None where there is none, or none any more."""
    if upload.file_id is None:
        return None
    with ctx.db.transaction() as tx:
        return userfiles.find_file(tx, caller.tenant_id, upload.file_id)
