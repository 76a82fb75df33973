"""The run before: the newest one over the same source, to say what has changed since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.session import Transaction

#: Runs that are looked at, newest first.
_MOST = 500


@dataclass(frozen=True)
class Previous:
    """What an earlier run was to do, and the recipe that came of it."""

    id: UUID
    recipe: str
    spec: dict[str, Any]


_FIND = text("""
    SELECT id, recipe, spec FROM (
        SELECT id, recipe, spec, name FROM runs WHERE tenant_id = :tenant_id ORDER BY id DESC LIMIT :most) AS r
    WHERE recipe IS NOT NULL AND (spec #>> '{source,uri}' = CAST(:uri AS text) OR name = CAST(:name AS text))
    ORDER BY id DESC LIMIT 1
""")


def find_previous(tx: Transaction, tenant_id: UUID, *, uri: str | None, name: str | None) -> Previous | None:
    """A tenant's newest run that has begun, of the same source or name; or None."""
    row = tx.execute(_FIND, {"tenant_id": tenant_id, "uri": uri, "name": name, "most": _MOST}).first()
    return Previous(row.id, row.recipe, row.spec) if row else None
