"""Prompt templates and their versions, which never change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class TemplateVersion:
    """One text of a template."""

    template_id: UUID
    name: str
    version: int
    prompt: str
    system: str | None
    response_format: dict[str, Any] | None
    note: str | None
    actor: str
    created_at: datetime


_FIND_VERSION = text("""
    SELECT v.template_id, t.name, v.version, v.prompt, v.system, v.response_format, v.note, v.actor, v.created_at
    FROM templates t JOIN template_versions v ON v.template_id = t.id
    WHERE t.tenant_id = :tenant_id AND t.name = :name AND t.deleted_at IS NULL
      AND v.version = coalesce(CAST(:version AS int), t.version)
""")


def find_version(tx: Transaction, tenant_id: UUID, name: str, version: int | None = None) -> TemplateVersion | None:
    """A version of a tenant's template by its name, the newest where none is said; or None."""
    row = tx.execute(_FIND_VERSION, {"tenant_id": tenant_id, "name": name, "version": version}).first()
    return TemplateVersion(**row._mapping) if row else None
