"""Blobs that nothing refers to. Content is shared: the same bytes may come again while they are being removed.

Two things keep that safe. Whoever stores bytes that are there already touches the file, and a touched file is not
removed (`media.blobs`); and a row is removed under a lock that whoever comes to refer to it waits for (`store.files`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

from batchinfer.store.files import PLAIN

if TYPE_CHECKING:
    from datetime import datetime

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Orphan:
    """A blob that nothing refers to, its row locked by this transaction."""

    tenant_id: UUID
    sha256: str


# Every job and document was made after the horizon: the oldest day that is kept, or the oldest stray row or document.
# A job's id is stamped by the host that made it, its blob by the database: the grace covers both clocks.
_OLDEST = text("""
    SELECT least(
        (SELECT min(CAST(to_date(right(child.relname, 8), 'YYYYMMDD') AS timestamp)) AT TIME ZONE 'UTC'
           FROM pg_inherits i JOIN pg_class child ON child.oid = i.inhrelid
          WHERE i.inhparent = CAST('jobs' AS regclass) AND child.relname ~ '^jobs_[0-9]{8}$'),
        (SELECT min(created_at) FROM jobs_default),
        (SELECT min(created_at) FROM documents))
""")
# Of what no picture or document is, only files, and uploads in parts, refer to it: it need not outlive the jobs. A file
# may be older than every job, and one that was deleted is still read by the batch that was made of it.
_HOLD = text("""
    SELECT b.tenant_id, b.sha256 FROM blobs b
    WHERE b.used_at < greatest(:before, :plain_before) AND (b.used_at < :before OR b.media_type = :plain)
      AND NOT EXISTS (
        SELECT 1 FROM files f WHERE f.blob = b.sha256 AND f.tenant_id = b.tenant_id AND (
            (f.deleted_at IS NULL AND (f.expires_at IS NULL OR f.expires_at > now()))
            OR EXISTS (SELECT 1 FROM batches r WHERE r.input_file_id = f.id
                       AND r.status IN ('validating', 'in_progress', 'finalizing', 'cancelling'))))
      AND NOT EXISTS (
        SELECT 1 FROM upload_parts p JOIN uploads u ON u.id = p.upload_id
        WHERE p.blob = b.sha256 AND p.tenant_id = b.tenant_id AND u.status = 'pending' AND u.expires_at > now())
    ORDER BY b.used_at LIMIT :limit FOR UPDATE OF b SKIP LOCKED
""")
_KNOWN = text("""
    SELECT sha256 FROM blobs WHERE tenant_id = :tenant_id AND sha256 = ANY (CAST(:names AS text[]))
""")
_KEEP = text("""
    UPDATE blobs SET used_at = now() WHERE (tenant_id, sha256) IN (
        SELECT * FROM unnest(CAST(:tenants AS uuid[]), CAST(:names AS text[])))
""")
_FORGET = text("""
    DELETE FROM blobs WHERE (tenant_id, sha256) IN (
        SELECT * FROM unnest(CAST(:tenants AS uuid[]), CAST(:names AS text[])))
""")


def find_oldest(tx: Transaction) -> datetime | None:
    """No job or document is older than this; None where there is nothing at all."""
    oldest: datetime | None = tx.execute(_OLDEST).scalar_one()
    return oldest


def hold_orphans(tx: Transaction, *, before: datetime, plain_before: datetime, limit: int) -> list[Orphan]:
    """Lock blobs that were last used before `before` and that no file names, at most `limit`; those that somebody uses
    now are passed over. Of neither pictures nor documents: those last used before `plain_before`."""
    values = {"before": before, "plain_before": plain_before, "plain": PLAIN, "limit": limit}
    return [Orphan(**row._mapping) for row in tx.execute(_HOLD, values)]


def find_known(tx: Transaction, tenant_id: UUID, names: list[str]) -> set[str]:
    """Those of these blobs of a tenant that have a row."""
    return set(tx.execute(_KNOWN, {"tenant_id": tenant_id, "names": names}).scalars())


def forget(tx: Transaction, orphans: list[Orphan]) -> None:
    """Remove the rows of blobs whose files are gone; they are held by this transaction."""
    tx.execute(_FORGET, _columns(orphans))


def keep(tx: Transaction, orphans: list[Orphan]) -> None:
    """Leave blobs alone whose files were touched lately; they are held by this transaction."""
    tx.execute(_KEEP, _columns(orphans))


def _columns(orphans: list[Orphan]) -> dict[str, list[object]]:
    return {"tenants": [orphan.tenant_id for orphan in orphans], "names": [orphan.sha256 for orphan in orphans]}
