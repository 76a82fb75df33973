"""Files that come in parts: the upload, and its parts, each a blob."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.uploads import UploadState, UserPart, UserUpload
from batchinfer.store.clean import clean_text
from batchinfer.store.horizons import with_horizons
from batchinfer.store.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Row

    from batchinfer.domain.uploads import UploadRequest
    from batchinfer.store.files import Blob
    from batchinfer.store.horizons import Horizons
    from batchinfer.store.session import Transaction

_COLUMNS = """id, tenant_id, filename, purpose, size_bytes, created_at, expires_at, file_id, file_expires_s,
    CASE WHEN status = 'pending' AND expires_at <= now() THEN 'expired' ELSE status END AS status"""
_PART = "id, upload_id, size_bytes, blob, created_at"
_INSERT = text(f"""
    INSERT INTO uploads (id, tenant_id, filename, purpose, size_bytes, file_expires_s, expires_at, schema_version)
    VALUES (:id, :tenant_id, :filename, :purpose, :size_bytes, :file_expires_s,
            now() + make_interval(secs => CAST(:seconds AS float)), :version)
    RETURNING {_COLUMNS}
""")  # noqa: S608 - made of constants
_FIND = f"SELECT {_COLUMNS} FROM uploads WHERE id = :id AND tenant_id = :tenant_id"  # noqa: S608
_END = text("""
    UPDATE uploads SET status = :status, file_id = :file_id
    WHERE id = :id AND tenant_id = :tenant_id AND status = 'pending'
""")
_INSERT_PART = text(f"""
    INSERT INTO upload_parts (id, upload_id, tenant_id, size_bytes, blob, schema_version)
    VALUES (:id, :upload_id, :tenant_id, :size_bytes, :blob, :version) RETURNING {_PART}
""")  # noqa: S608 - made of constants
_MEASURE = text("""
    SELECT count(*) AS parts, coalesce(sum(size_bytes) FILTER (WHERE first), 0) AS size_bytes
    FROM (SELECT size_bytes, row_number() OVER (PARTITION BY blob) = 1 AS first
          FROM upload_parts WHERE upload_id = :upload_id) AS part
""")
_FIND_PARTS = text(f"""
    SELECT {_PART} FROM upload_parts
    WHERE upload_id = :upload_id AND tenant_id = :tenant_id AND id = ANY (CAST(:ids AS uuid[]))
""")  # noqa: S608 - made of constants
_FORGET = with_horizons("""
    DELETE FROM uploads WHERE id IN (
        SELECT id FROM uploads u WHERE OVER(u.id) AND (status <> 'pending' OR expires_at <= now())
        LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


def insert_upload(
    tx: Transaction, upload_id: UUID, tenant_id: UUID, request: UploadRequest, *, seconds: float
) -> UserUpload:
    """Store an upload without parts; its time is over after so many seconds."""
    values = {
        "id": upload_id, "tenant_id": tenant_id, "filename": clean_text(request.file.filename),
        "purpose": request.file.purpose, "size_bytes": request.size_bytes, "seconds": seconds,
        "file_expires_s": request.file.expires_s, "version": SCHEMA_VERSION,
    }  # fmt: skip
    return _as_upload(tx.execute(_INSERT, values).one())


def find_upload(tx: Transaction, tenant_id: UUID, upload_id: UUID, *, lock: bool = False) -> UserUpload | None:
    """A tenant's upload, or None. With `lock` nobody ends it, or adds a part to it, until the transaction ends."""
    statement = text(_FIND + (" FOR UPDATE" if lock else ""))
    row = tx.execute(statement, {"id": upload_id, "tenant_id": tenant_id}).first()
    return _as_upload(row) if row else None


def end_upload(
    tx: Transaction, tenant_id: UUID, upload_id: UUID, status: UploadState, *, file_id: UUID | None = None
) -> bool:
    """Complete or cancel an upload, its time being over or not. False where it has ended."""
    values = {"id": upload_id, "tenant_id": tenant_id, "status": status.value, "file_id": file_id}
    return tx.execute(_END, values).rowcount == 1


def insert_part(tx: Transaction, part_id: UUID, upload: UserUpload, blob: Blob) -> UserPart:
    """Store a part whose blob this transaction has recorded, of an upload that it has locked."""
    values = {
        "id": part_id, "upload_id": upload.id, "tenant_id": upload.tenant_id, "size_bytes": blob.size_bytes,
        "blob": blob.sha256, "version": SCHEMA_VERSION,
    }  # fmt: skip
    return UserPart(**tx.execute(_INSERT_PART, values).one()._mapping)


def measure_parts(tx: Transaction, upload_id: UUID) -> tuple[int, int]:
    """How many parts an upload has, and their bytes together, the same bytes counted once."""
    row = tx.execute(_MEASURE, {"upload_id": upload_id}).one()
    return int(row.parts), int(row.size_bytes)


def find_parts(tx: Transaction, tenant_id: UUID, upload_id: UUID, ids: Sequence[UUID]) -> dict[UUID, UserPart]:
    """Those of these parts that belong to the upload."""
    values = {"tenant_id": tenant_id, "upload_id": upload_id, "ids": list(ids)}
    return {row.id: UserPart(**row._mapping) for row in tx.execute(_FIND_PARTS, values)}


def forget_ended(tx: Transaction, *, before: Horizons, limit: int = 20_000) -> int:
    """Drop uploads older than an id that take no more parts, with their parts, at most `limit`. Answers how many."""
    return tx.execute(_FORGET, {**before.values, "limit": limit}).rowcount


def _as_upload(row: Row[Any]) -> UserUpload:
    return UserUpload(**{**row._mapping, "status": UploadState(row.status)})
