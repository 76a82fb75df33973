"""The ledger: which document has the answers of a file under a recipe, entered when it was read without errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.sources import make_uri_key

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.documents import Rendering
    from batchinfer.store.session import Transaction

_ENTER = text("""
    INSERT INTO ledger (tenant_id, recipe, uri_key, document_id, size_bytes, stamp, sha256, pages)
    VALUES (:tenant_id, :recipe, :uri_key, :document_id, :size_bytes, :stamp, :sha256, :pages)
    ON CONFLICT (tenant_id, recipe, uri_key) DO UPDATE SET document_id = excluded.document_id,
        size_bytes = excluded.size_bytes, stamp = excluded.stamp, sha256 = excluded.sha256,
        pages = CASE WHEN excluded.pages > 0 THEN excluded.pages ELSE ledger.pages END, created_at = now()
""")
_SKIP = text("UPDATE documents SET stage = 'skipped', same_as = :same_as WHERE id = :id")
_COUNT = text("UPDATE runs SET skipped = skipped + 1 WHERE id = :id")


def enter(tx: Transaction, document: Rendering, *, same_as: UUID | None = None) -> None:
    """Note that this document, or the earlier one that it is the same as, has the answers of its file under the recipe
    of its run."""
    if (values := _values(document)) is not None:
        more = {"document_id": same_as or document.id, "size_bytes": document.size_bytes, "stamp": document.stamp}
        tx.execute(_ENTER, values | more | {"pages": document.pages or 0})


def mark_skipped(tx: Transaction, document: Rendering, same_as: UUID) -> None:
    """A document is left out: its pages are those of an earlier one. The caller holds it."""
    tx.execute(_SKIP, {"id": document.id, "same_as": same_as})


def count_skipped(tx: Transaction, run_id: UUID) -> None:
    """Count a document that was left out. After batches, as everybody does."""
    tx.execute(_COUNT, {"id": run_id})


def _values(document: Rendering) -> dict[str, Any] | None:
    if document.run is None or document.uri is None or document.blob is None:
        return None
    return {
        "tenant_id": document.tenant_id, "recipe": document.run.recipe, "uri_key": make_uri_key(document.uri),
        "sha256": document.blob,
    }  # fmt: skip
