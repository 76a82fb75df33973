"""Which blobs a tenant has. The bytes are in the blob store; the row comes with the transaction that refers to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Blob:
    """Bytes by their SHA-256 (hexadecimal)."""

    sha256: str
    size_bytes: int
    media_type: str


_RECORD = text("""
    INSERT INTO blobs (tenant_id, sha256, size_bytes, media_type)
    SELECT :tenant_id, * FROM unnest(CAST(:sha256 AS text[]), CAST(:sizes AS bigint[]), CAST(:types AS text[]))
    AS blob (sha256, size_bytes, media_type) ORDER BY sha256
    ON CONFLICT DO NOTHING
""")
_FIND = text("SELECT sha256, size_bytes, media_type FROM blobs WHERE tenant_id = :tenant_id AND sha256 = :sha256")


def record_blobs(tx: Transaction, tenant_id: UUID, blobs: Sequence[Blob]) -> None:
    """Note blobs that are in the store; those already noted stay as they are."""
    if not blobs:
        return
    values = {
        "sha256": [blob.sha256 for blob in blobs],
        "sizes": [blob.size_bytes for blob in blobs],
        "types": [blob.media_type for blob in blobs],
    }
    tx.execute(_RECORD, {"tenant_id": tenant_id, **values})


def find_blob(tx: Transaction, tenant_id: UUID, sha256: str) -> Blob | None:
    """A tenant's blob, or None."""
    row = tx.execute(_FIND, {"tenant_id": tenant_id, "sha256": sha256}).first()
    return Blob(**row._mapping) if row else None
