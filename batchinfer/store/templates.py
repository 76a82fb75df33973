"""Prompt templates and their versions, which never change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.templates import TemplateText
from batchinfer.store.clean import as_jsonb
from batchinfer.store.columns import SCHEMA_VERSION

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

    @property
    def text(self) -> TemplateText:
        """What it says."""
        return TemplateText(self.prompt, self.system, self.response_format, self.note)


@dataclass(frozen=True)
class Template:
    """A template as a reader sees it. `version` is the newest."""

    id: UUID
    tenant_id: UUID
    name: str
    version: int
    created_at: datetime
    updated_at: datetime


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


_COLUMNS = "id, tenant_id, name, version, created_at, updated_at"
_MINE = "tenant_id = :tenant_id AND deleted_at IS NULL"
_INSERT = text("""
    INSERT INTO templates (id, tenant_id, name, schema_version) VALUES (:id, :tenant_id, :name, :schema)
    ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING RETURNING id
""")
_ADD = text("""
    INSERT INTO template_versions (template_id, version, tenant_id, prompt, system, response_format, note, actor,
        schema_version)
    VALUES (:id, :version, :tenant_id, :prompt, :system, :response_format, :note, :actor, :schema)
""")
_ADVANCE = text("UPDATE templates SET version = :version, updated_at = now() WHERE id = :id")
_FIND = text(f"SELECT {_COLUMNS} FROM templates WHERE id = :id AND {_MINE}")  # noqa: S608 - made of constants
_LOCK = text(f"SELECT {_COLUMNS} FROM templates WHERE id = :id AND {_MINE} FOR UPDATE")  # noqa: S608 - constants
_LOCK_NAMED = text(f"SELECT {_COLUMNS} FROM templates WHERE name = :name AND {_MINE} FOR UPDATE")  # noqa: S608
_VERSIONS = text("""
    SELECT v.template_id, t.name, v.version, v.prompt, v.system, v.response_format, v.note, v.actor, v.created_at
    FROM templates t JOIN template_versions v ON v.template_id = t.id
    WHERE t.id = :id AND t.tenant_id = :tenant_id ORDER BY v.version DESC LIMIT 1000
""")
_DELETE = text(f"UPDATE templates SET deleted_at = now() WHERE id = :id AND {_MINE} RETURNING id")  # noqa: S608


def insert_template(tx: Transaction, template_id: UUID, tenant_id: UUID, name: str) -> bool:
    """Store a template, whose first version the caller adds. False: the name is taken."""
    values = {"id": template_id, "tenant_id": tenant_id, "name": name, "schema": SCHEMA_VERSION}
    return tx.execute(_INSERT, values).first() is not None


def add_version(
    tx: Transaction, tenant_id: UUID, template_id: UUID, version: int, said: TemplateText, *, actor: str
) -> None:
    """Store a version, which is the newest from now on. The caller holds the template, or has made it."""
    values = vars(said) | {"response_format": as_jsonb(said.response_format), "actor": actor, "schema": SCHEMA_VERSION}
    named = {"id": template_id, "version": version}
    tx.execute(_ADD, {**values, **named, "tenant_id": tenant_id})
    tx.execute(_ADVANCE, named)


def find_template(tx: Transaction, tenant_id: UUID, template_id: UUID) -> Template | None:
    """A tenant's template, or None."""
    row = tx.execute(_FIND, {"id": template_id, "tenant_id": tenant_id}).first()
    return Template(**row._mapping) if row else None


def lock_template(tx: Transaction, tenant_id: UUID, template_id: UUID) -> Template | None:
    """The same, its row locked until the transaction ends."""
    row = tx.execute(_LOCK, {"id": template_id, "tenant_id": tenant_id}).first()
    return Template(**row._mapping) if row else None


def lock_named(tx: Transaction, tenant_id: UUID, name: str) -> Template | None:
    """The same by its name."""
    row = tx.execute(_LOCK_NAMED, {"name": name, "tenant_id": tenant_id}).first()
    return Template(**row._mapping) if row else None


def list_templates(tx: Transaction, tenant_id: UUID, *, after: UUID | None = None, limit: int = 20) -> list[Template]:
    """A tenant's templates, newest first, beginning below the id `after`."""
    bound = "AND id < :after" if after else ""
    statement = text(f"SELECT {_COLUMNS} FROM templates WHERE {_MINE} {bound} ORDER BY id DESC LIMIT :limit")  # noqa: S608
    cursor = {"after": after} if after else {}
    return [
        Template(**row._mapping) for row in tx.execute(statement, {"tenant_id": tenant_id, "limit": limit, **cursor})
    ]


def list_versions(tx: Transaction, tenant_id: UUID, template_id: UUID) -> list[TemplateVersion]:
    """The versions of a template, newest first, at most 1000."""
    rows = tx.execute(_VERSIONS, {"id": template_id, "tenant_id": tenant_id})
    return [TemplateVersion(**row._mapping) for row in rows]


def delete_template(tx: Transaction, tenant_id: UUID, template_id: UUID) -> bool:
    """Let nobody begin with it any more. False: there is none."""
    return tx.execute(_DELETE, {"id": template_id, "tenant_id": tenant_id}).first() is not None
