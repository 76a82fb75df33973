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
# may be older than every job, and one that was deleted is still read by the batch that was made of it. The picture of a
# golden prompt stays when its job and run are gone, and those of a deployment while it is wanted.
_IN_FILES = """
    EXISTS (
        SELECT 1 FROM files f WHERE f.blob = b.sha256 AND f.tenant_id = b.tenant_id AND (
            (f.deleted_at IS NULL AND (f.expires_at IS NULL OR f.expires_at > now()))
            OR EXISTS (SELECT 1 FROM batches r WHERE r.input_file_id = f.id
                       AND r.status IN ('validating', 'in_progress', 'finalizing', 'cancelling'))))
    OR EXISTS (
        SELECT 1 FROM upload_parts p JOIN uploads u ON u.id = p.upload_id
        WHERE p.blob = b.sha256 AND p.tenant_id = b.tenant_id AND u.status = 'pending' AND u.expires_at > now())
    OR EXISTS (SELECT 1 FROM goldens g WHERE g.blob = b.sha256 AND g.tenant_id = b.tenant_id)
    OR (b.tenant_id, b.sha256) IN (
        SELECT d.tenant_id, p.name #>> '{}' FROM deployments d, LATERAL jsonb_path_query(
            coalesce(d.golden, '[]') || coalesce(d.swap -> 'golden', '[]'), '$[*].pictures[*]') AS p (name)
        WHERE d.stopped_at IS NULL)
"""
_HOLD = text(f"""
    SELECT b.tenant_id, b.sha256 FROM blobs b
    WHERE b.used_at < greatest(:before, :plain_before) AND (b.used_at < :before OR b.media_type = :plain)
      AND NOT ({_IN_FILES})
    ORDER BY b.used_at LIMIT :limit FOR UPDATE OF b SKIP LOCKED
""")  # noqa: S608 - made of constants
_HOLD_ERASED = text("""
    SELECT tenant_id, sha256 FROM blobs WHERE erase_at <= now() ORDER BY erase_at LIMIT :limit FOR UPDATE SKIP LOCKED
""")
# A statement of its own behind the lock: it sees whatever was referred to by those who held the row before. What a run
# has read and closed can be had from its source again.
_STILL_USED = text(f"""
    SELECT b.tenant_id, b.sha256 FROM blobs b JOIN unnest(CAST(:tenants AS uuid[]), CAST(:names AS text[]))
        AS held (tenant_id, sha256) USING (tenant_id, sha256)
    WHERE EXISTS (SELECT 1 FROM job_blobs r WHERE r.tenant_id = b.tenant_id AND r.sha256 = b.sha256)
       OR EXISTS (SELECT 1 FROM documents d WHERE d.tenant_id = b.tenant_id AND d.blob = b.sha256
                  AND (d.stage IS NULL OR d.stage NOT IN ('closed', 'skipped')))
       OR {_IN_FILES}
""")  # noqa: S608 - made of constants
_POSTPONE = text("""
    UPDATE blobs SET erase_at = now() + make_interval(secs => CAST(:wait_s AS float)) WHERE (tenant_id, sha256) IN (
        SELECT * FROM unnest(CAST(:tenants AS uuid[]), CAST(:names AS text[])))
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


def hold_erased(tx: Transaction, *, limit: int) -> tuple[list[Orphan], list[Orphan]]:
    """Lock blobs that something deleted referred to and whose wait is over: those that nothing refers to, and those
    that something else does."""
    held = [Orphan(**row._mapping) for row in tx.execute(_HOLD_ERASED, {"limit": limit})]
    used = {Orphan(**row._mapping) for row in tx.execute(_STILL_USED, _columns(held))} if held else set()
    return [orphan for orphan in held if orphan not in used], [orphan for orphan in held if orphan in used]


def postpone(tx: Transaction, orphans: list[Orphan], wait_s: float | None) -> None:
    """Look again at held blobs after so many seconds, or (None) not again."""
    if orphans:
        tx.execute(_POSTPONE, {**_columns(orphans), "wait_s": wait_s})


def _columns(orphans: list[Orphan]) -> dict[str, list[object]]:
    return {"tenants": [orphan.tenant_id for orphan in orphans], "names": [orphan.sha256 for orphan in orphans]}
