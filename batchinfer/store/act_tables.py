"""The table of acts on many jobs."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from batchinfer.store.columns import metadata, tenant_column, time_column, version_column

#: While it waits or is carried out, a queue row of kind act with its id says so.
bulk_acts = Table(
    "bulk_acts", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    Column("key_id", Uuid, nullable=False), Column("actor", Text, nullable=False),
    Column("verb", Text, nullable=False),
    Column("search", JSONB, nullable=False, server_default=text("'{}'")),
    #: Jobs that were named; where none is, those of the search that were there when it was asked for.
    Column("ids", ARRAY(Uuid), nullable=False, server_default=text("'{}'")),
    Column("up_to", Uuid, nullable=False),
    Column("state", Text, nullable=False, server_default="queued"),
    *(Column(name, BigInteger, nullable=False, server_default="0") for name in ("total", "done", "skipped", "failed")),
    Column("reasons", JSONB, nullable=False, server_default=text("'{}'")),
    #: The last job that was looked at; after a crash it goes on behind that.
    Column("cursor", Uuid),
    Column("error", JSONB),
    time_column("created_at", nullable=False, now=True), time_column("started_at"), time_column("finished_at"),
    Index("ix_bulk_acts_tenant", "tenant_id", "id"),
)  # fmt: skip
