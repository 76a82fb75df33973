"""Files of users and of batches. The bytes are a blob; a file that was deleted or whose time is over is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.domain.userfiles import UserFile
from batchinfer.store.clean import clean_text
from batchinfer.store.horizons import with_horizons
from batchinfer.store.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.store.horizons import Horizons
    from batchinfer.store.session import Transaction

_COLUMNS = "id, tenant_id, filename, purpose, size_bytes, blob, created_at, expires_at"
_THERE = "deleted_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
_INSERT = text(f"""
    INSERT INTO files (id, tenant_id, filename, purpose, size_bytes, blob, expires_at, schema_version)
    VALUES (:id, :tenant_id, :filename, :purpose, :size_bytes, :blob,
            now() + make_interval(secs => CAST(:expires_s AS float)), :version)
    RETURNING {_COLUMNS}
""")  # noqa: S608 - made of constants
_FIND = text(f"SELECT {_COLUMNS} FROM files WHERE id = :id AND tenant_id = :tenant_id AND {_THERE}")  # noqa: S608
_FIND_SEVERAL = text(f"""
    SELECT {_COLUMNS} FROM files WHERE id = ANY (CAST(:ids AS uuid[])) AND tenant_id = :tenant_id AND {_THERE}
""")  # noqa: S608 - made of constants
_LIST = f"""
    SELECT {_COLUMNS} FROM files WHERE tenant_id = :tenant_id AND {_THERE} {{bounds}} ORDER BY id {{order}} LIMIT :limit
"""  # noqa: S608
_DELETE = text(f"""
    UPDATE files SET deleted_at = now() WHERE id = :id AND tenant_id = :tenant_id AND {_THERE} RETURNING id
""")  # noqa: S608 - made of constants
_SOURCE = text(f"SELECT {_COLUMNS} FROM files WHERE id = :id AND tenant_id = :tenant_id")  # noqa: S608
_FORGET = with_horizons("""
    DELETE FROM files WHERE id IN (
        SELECT id FROM files f WHERE OVER(f.id) AND (f.deleted_at IS NOT NULL OR f.expires_at <= now())
          AND NOT EXISTS (SELECT 1 FROM batches b WHERE b.input_file_id = f.id
                          AND b.status IN ('validating', 'in_progress', 'finalizing', 'cancelling'))
        LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


def insert_file(
    tx: Transaction,
    file_id: UUID,
    tenant_id: UUID,
    *,
    filename: str,
    purpose: str,
    blob: str,
    size_bytes: int,
    expires_s: float | None,
) -> UserFile:
    """Store a file whose blob this transaction has recorded; it expires after so many seconds, None: never."""
    values = {
        "id": file_id, "tenant_id": tenant_id, "filename": clean_text(filename), "purpose": purpose, "blob": blob,
        "size_bytes": size_bytes, "expires_s": expires_s, "version": SCHEMA_VERSION,
    }  # fmt: skip
    return UserFile(**tx.execute(_INSERT, values).one()._mapping)


def find_file(tx: Transaction, tenant_id: UUID, file_id: UUID) -> UserFile | None:
    """A tenant's file, or None."""
    row = tx.execute(_FIND, {"id": file_id, "tenant_id": tenant_id}).first()
    return UserFile(**row._mapping) if row else None


def find_files(tx: Transaction, tenant_id: UUID, ids: Sequence[UUID]) -> dict[UUID, UserFile]:
    """Several of a tenant's files by id; those that are not there are missing from the answer."""
    rows = tx.execute(_FIND_SEVERAL, {"ids": list(ids), "tenant_id": tenant_id})
    return {row.id: UserFile(**row._mapping) for row in rows}


def find_source(tx: Transaction, tenant_id: UUID, file_id: UUID) -> UserFile | None:
    """The same for the batch that was made of it: there even after it was deleted or its time was over."""
    row = tx.execute(_SOURCE, {"id": file_id, "tenant_id": tenant_id}).first()
    return UserFile(**row._mapping) if row else None


def list_files(
    tx: Transaction,
    tenant_id: UUID,
    *,
    purpose: str | None = None,
    after: UUID | None = None,
    oldest_first: bool = False,
    limit: int = 20,
) -> list[UserFile]:
    """A tenant's files, newest first unless said otherwise, beginning behind the id `after`."""
    bounds = "AND purpose = :purpose " if purpose is not None else ""
    if after is not None:
        bounds += "AND id > :after" if oldest_first else "AND id < :after"
    statement = text(_LIST.format(bounds=bounds, order="ASC" if oldest_first else "DESC"))
    used = {name: value for name, value in (("purpose", purpose), ("after", after)) if value is not None}
    return [UserFile(**row._mapping) for row in tx.execute(statement, {"tenant_id": tenant_id, "limit": limit, **used})]


def delete_file(tx: Transaction, tenant_id: UUID, file_id: UUID) -> bool:
    """Delete a file; its row stays for a while without anybody seeing it. False where there is none."""
    return tx.execute(_DELETE, {"id": file_id, "tenant_id": tenant_id}).first() is not None


def forget_gone(tx: Transaction, *, before: Horizons, limit: int = 20_000) -> int:
    """Drop rows older than an id of files that are gone, at most `limit`. Answers how many."""
    return tx.execute(_FORGET, {**before.values, "limit": limit}).rowcount
