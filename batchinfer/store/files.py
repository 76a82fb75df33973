"""Which blobs a tenant has. The bytes are in the blob store; the row comes with the transaction that refers to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from batchinfer.store.session import Transaction

#: The media type of a blob that is neither a picture nor a document; no job refers to such a one.
PLAIN = "application/octet-stream"


@dataclass(frozen=True)
class Blob:
    """Bytes by their SHA-256 (hexadecimal)."""

    sha256: str
    size_bytes: int
    media_type: str


_INSERT = text("""
    INSERT INTO blobs (tenant_id, sha256, size_bytes, media_type)
    SELECT :tenant_id, * FROM unnest(CAST(:sha256 AS text[]), CAST(:sizes AS bigint[]), CAST(:types AS text[]))
    AS blob (sha256, size_bytes, media_type) ORDER BY sha256
    ON CONFLICT DO NOTHING RETURNING sha256
""")
# A shared lock: many may use the same picture at once, and only whoever removes it is kept out.
_SHARE = text("""
    SELECT sha256, used_at < now() - interval '1 hour' AS stale, media_type FROM blobs
    WHERE tenant_id = :tenant_id AND sha256 = ANY (CAST(:names AS text[])) ORDER BY sha256 FOR KEY SHARE
""")
_TOUCH = text("""
    UPDATE blobs SET used_at = now()
    WHERE tenant_id = :tenant_id AND sha256 = ANY (CAST(:names AS text[])) AND used_at < now() - interval '1 hour'
""")
# The part of a file is plain, whatever it begins with: the same bytes may come again as a picture.
_TELL = text("""
    UPDATE blobs SET media_type = told.media_type
    FROM unnest(CAST(:sha256 AS text[]), CAST(:types AS text[])) AS told (sha256, media_type)
    WHERE blobs.tenant_id = :tenant_id AND blobs.sha256 = told.sha256 AND blobs.media_type = :plain
""")
_FIND = text("SELECT sha256, size_bytes, media_type FROM blobs WHERE tenant_id = :tenant_id AND sha256 = :sha256")


def record_blobs(tx: Transaction, tenant_id: UUID, blobs: Sequence[Blob]) -> None:
    """Note that blobs are used, and keep them from being removed until the transaction ends.

    One that is just being removed is waited for: look afterwards whether the file is there.
    """
    left = {blob.sha256: blob for blob in blobs}
    while left:
        held = set(tx.execute(_INSERT, {"tenant_id": tenant_id, **_columns(list(left.values()))}).scalars())
        names = sorted(left.keys() - held)
        rows = list(tx.execute(_SHARE, {"tenant_id": tenant_id, "names": names})) if names else []
        stale = [row.sha256 for row in rows if row.stale]
        if stale:
            tx.execute(_TOUCH, {"tenant_id": tenant_id, "names": stale})
        told = [left[row.sha256] for row in rows if row.media_type == PLAIN != left[row.sha256].media_type]
        if told:
            columns = _columns(told)
            tx.execute(_TELL, {"tenant_id": tenant_id, "plain": PLAIN, **{k: columns[k] for k in ("sha256", "types")}})
        # What was removed between the two statements is inserted in the next round.
        left = {name: left[name] for name in names if name not in {row.sha256 for row in rows}}


def _columns(blobs: Sequence[Blob]) -> dict[str, list[object]]:
    return {
        "sha256": [blob.sha256 for blob in blobs],
        "sizes": [blob.size_bytes for blob in blobs],
        "types": [blob.media_type for blob in blobs],
    }


_REFER = text("""
    INSERT INTO job_blobs (job_id, sha256, tenant_id)
    SELECT * FROM unnest(CAST(:jobs AS uuid[]), CAST(:names AS text[]), CAST(:tenants AS uuid[])) ON CONFLICT DO NOTHING
""")


def refer_to_blobs(tx: Transaction, tenant_id: UUID, images: Sequence[tuple[UUID, Mapping[str, Any]]]) -> None:
    """Note which blobs jobs refer to: (job, image of its prompt), the image as sent and, once it is made, as normal."""
    pairs = sorted({(job_id, name) for job_id, image in images for name in list_names(image)})
    if pairs:
        jobs, names = ([pair[column] for pair in pairs] for column in (0, 1))
        tx.execute(_REFER, {"jobs": jobs, "names": names, "tenants": [tenant_id] * len(pairs)})


def list_names(image: Mapping[str, Any]) -> list[str]:
    """The blobs of an image of a prompt: what the model takes first, what is kept of it for people last."""
    forms = (image.get("normal") or {}, image, image.get("thumbnail") or {})
    return [form["sha256"] for form in forms if form.get("sha256")]


def find_blob(tx: Transaction, tenant_id: UUID, sha256: str) -> Blob | None:
    """A tenant's blob, or None."""
    row = tx.execute(_FIND, {"tenant_id": tenant_id, "sha256": sha256}).first()
    return Blob(**row._mapping) if row else None


_TYPES = text("""
    SELECT sha256, media_type FROM blobs WHERE tenant_id = :tenant_id AND sha256 = ANY (CAST(:names AS text[]))
""")


def find_types(tx: Transaction, tenant_id: UUID, names: Sequence[str]) -> dict[str, str]:
    """The media types of a tenant's blobs by their SHA-256; unknown ones are missing from the answer."""
    rows = tx.execute(_TYPES, {"tenant_id": tenant_id, "names": list(names)})
    return {row.sha256: row.media_type for row in rows}
