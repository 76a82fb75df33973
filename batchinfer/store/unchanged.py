"""What the ledger says of files before they are read: which of them an earlier document answers for already.

A document that serves again is still there with all its results; once `keep_days` took them, the file is read anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.domain.sources import make_uri_key
from batchinfer.store.endings import NOT_DELETED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.domain.sources import Entry
    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Same:
    """The earlier document whose results serve again, and how many pages it has."""

    document_id: UUID
    pages: int


#: All its jobs have a result that was not deleted.
_IS_WHOLE = f"""EXISTS (
        SELECT 1 FROM documents d WHERE d.id = l.document_id AND d.tenant_id = l.tenant_id AND d.jobs <= (
            SELECT count(*) FROM jobs j JOIN results r ON r.job_id = j.id AND {NOT_DELETED}
            WHERE j.document_id = d.id))"""  # noqa: S608 - made of constants
_FIND = text(f"""
    SELECT e.uri_key, l.document_id, l.pages
    FROM unnest(CAST(:keys AS text[]), CAST(:sizes AS bigint[]), CAST(:stamps AS text[]))
        AS e (uri_key, size_bytes, stamp)
    JOIN ledger l ON l.tenant_id = :tenant_id AND l.recipe = :recipe AND l.uri_key = e.uri_key
    WHERE l.stamp = e.stamp AND l.size_bytes = e.size_bytes AND {_IS_WHOLE}
""")  # noqa: S608 - made of constants
_FIND_CONTENT = text(f"""
    SELECT l.document_id, l.pages FROM ledger l
    WHERE l.tenant_id = :tenant_id AND l.recipe = :recipe AND l.uri_key = :key AND l.sha256 = :sha256 AND {_IS_WHOLE}
""")  # noqa: S608 - made of constants
_COUNT_KNOWN = text("""
    SELECT count(*) FROM unnest(CAST(:keys AS text[])) AS e (uri_key)
    JOIN ledger l ON l.tenant_id = :tenant_id AND l.recipe = :recipe AND l.uri_key = e.uri_key
""")


def find_unchanged(tx: Transaction, tenant_id: UUID, recipe: str, entries: Sequence[Entry]) -> dict[str, Same]:
    """Those of the entries that were read under this recipe with the same size and stamp, by their `uri_key`.

    One whose source says neither size nor stamp is never among them. No byte of a document is read.
    """
    known = [entry for entry in entries if entry.stamp is not None and entry.size_bytes is not None]
    values = {
        "tenant_id": tenant_id, "recipe": recipe, "keys": [entry.uri_key for entry in known],
        "sizes": [entry.size_bytes for entry in known], "stamps": [entry.stamp for entry in known],
    }  # fmt: skip
    rows = tx.execute(_FIND, values) if known else ()
    return {row.uri_key: Same(row.document_id, row.pages) for row in rows}


def find_same_content(tx: Transaction, *, tenant_id: UUID, recipe: str, uri: str, sha256: str) -> Same | None:
    """The earlier document of the same uri and recipe with the same bytes, or None."""
    values = {"tenant_id": tenant_id, "recipe": recipe, "key": make_uri_key(uri), "sha256": sha256}
    row = tx.execute(_FIND_CONTENT, values).first()
    return Same(row.document_id, row.pages) if row else None


def count_known(tx: Transaction, tenant_id: UUID, recipe: str, entries: Sequence[Entry]) -> int:
    """How many of the entries were read under a recipe at all, changed since or not."""
    values = {"tenant_id": tenant_id, "recipe": recipe, "keys": [entry.uri_key for entry in entries]}
    return int(tx.execute(_COUNT_KNOWN, values).scalar_one())
