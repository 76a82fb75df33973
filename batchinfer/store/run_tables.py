"""The tables of documents and of runs over them. `tables` has the others."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from batchinfer.store.columns import class_column, metadata, tenant_column, time_column, version_column

documents = Table(
    "documents", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(), class_column(),
    Column("model", Text, nullable=False), Column("key_id", Uuid), Column("schedule_id", Uuid),
    #: NULL for a document of a run: its batch has it.
    Column("trace", Text),
    Column("filename", Text), Column("media_type", Text, nullable=False),
    #: SHA-256 of the file; NULL until a document of a run was read for the first time.
    Column("blob", Text),
    Column("prompt", JSONB, nullable=False),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
    Column("pages", Integer),
    #: Pages whose jobs exist; rendering goes on here after a crash.
    Column("rendered", Integer, nullable=False, server_default="0"),
    Column("error", JSONB),
    time_column("created_at", nullable=False, now=True), time_column("started_at"),
    time_column("rendered_at"), time_column("expires_at"),
    #: Of a run, whose manifest its documents are: which one, from 1, and what was listed.
    Column("run_id", Uuid), Column("number", Integer),
    Column("uri", Text), Column("size_bytes", BigInteger),
    #: The etag, or where there is none the time of the last change.
    Column("stamp", Text),
    #: listed (no queue row yet), queued, closed, or skipped: unchanged. NULL: of no run.
    Column("stage", Text),
    #: How it ended: completed, completed_with_errors, failed, cancelled or expired.
    Column("outcome", Text),
    #: The earlier document whose pages are this one's, as nothing has changed.
    Column("same_as", Uuid),
    #: Its pages are the lines from `first_line` + 1 on of the run's batch.
    Column("first_line", Integer),
    #: Jobs made of it, and how those stand.
    *(Column(name, Integer, nullable=False, server_default="0")
      for name in ("jobs", "jobs_ended", "jobs_failed", "pages_blank", "pages_fallback")),
    #: From 1, in the order in which documents of the run were closed: shards are ranges of it.
    Column("closed_number", Integer), time_column("closed_at"),
    Index("ix_documents_tenant", "tenant_id", "id"),
    Index("ix_documents_blob", "tenant_id", "blob"),
    Index("ix_documents_run", "run_id", "number", postgresql_where=text("run_id IS NOT NULL")),
    Index("ix_documents_listed", "run_id", "number", postgresql_where=text("stage = 'listed'")),
    Index("ix_documents_queued", "run_id", postgresql_where=text("stage = 'queued'")),
    Index("ix_documents_same_as", "same_as", postgresql_where=text("same_as IS NOT NULL")),
    Index("ix_documents_closed", "run_id", "closed_number", postgresql_where=text("closed_number IS NOT NULL")),
)  # fmt: skip

#: A run that has begun has the id of its batch. `state` is due, running, skipped or missed; the rest is the batch's.
runs = Table(
    "runs", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    Column("name", Text), Column("key_id", Uuid),
    Column("schedule_id", Uuid), Column("schedule_version", Integer),
    #: The moment that the schedule names: one run for each, whoever ticks.
    time_column("instant"), time_column("due_at"),
    Column("state", Text, nullable=False, server_default="due"),
    Column("spec", JSONB, nullable=False),
    Column("recipe", Text),
    Column("cause", JSONB),
    #: Where listing goes on after a crash, and whether it is done.
    Column("cursor", JSONB), time_column("listed_at"),
    *(Column(name, BigInteger, nullable=False, server_default="0")
      for name in ("documents", "listed_bytes", "skipped", "closed", "failed", "with_errors", "pages_blank",
                   "pages_fallback", "page_bytes")),
    #: Finished and failed pages of the last groups, in turns: whether the run has to stop itself.
    Column("recent", ARRAY(Integer), nullable=False, server_default=text("'{}'")),
    #: Shards whose writing was queued.
    Column("shards", Integer, nullable=False, server_default="0"),
    #: What was written beside the shards: report and manifest, by name.
    Column("files", JSONB, nullable=False, server_default=text("'{}'")),
    time_column("created_at", nullable=False, now=True), time_column("begun_at"), time_column("finished_at"),
    Index("ix_runs_tenant", "tenant_id", "id"),
    Index("uq_runs_instant", "schedule_id", "instant", unique=True),
    Index("ix_runs_live", "state", postgresql_where=text("finished_at IS NULL")),
)  # fmt: skip

#: Closed documents `first` to `last` of a run, written to each of its sinks at once. A queue row of kind seal says
#: that it is being done.
shards = Table(
    "shards", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    Column("run_id", Uuid, nullable=False), Column("number", Integer, nullable=False),
    Column("first", Integer, nullable=False), Column("last", Integer, nullable=False),
    #: What was written: [{"sink", "name", "bytes", "sha256", "documents", "pages"}].
    Column("files", JSONB, nullable=False, server_default=text("'[]'")),
    time_column("created_at", nullable=False, now=True), time_column("sealed_at"),
    Index("uq_shards_run", "run_id", "number", unique=True),
)  # fmt: skip

#: Which document has the answers of a source's file under a recipe: the view by document of what may serve again.
ledger = Table(
    "ledger", metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("recipe", Text, primary_key=True),
    #: SHA-256 of the uri.
    Column("uri_key", Text, primary_key=True),
    Column("document_id", Uuid, nullable=False),
    Column("size_bytes", BigInteger), Column("stamp", Text), Column("sha256", Text, nullable=False),
    Column("pages", Integer, nullable=False),
    version_column(),
    time_column("created_at", nullable=False, now=True),
    Index("ix_ledger_document_id", "document_id"),
    Index("ix_ledger_sha256", "tenant_id", "recipe", "sha256"),
)  # fmt: skip

templates = Table(
    "templates", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    Column("name", Text, nullable=False),
    #: The newest.
    Column("version", Integer, nullable=False, server_default="1"),
    time_column("created_at", nullable=False, now=True), time_column("updated_at", nullable=False, now=True),
    time_column("deleted_at"),
    Index("uq_templates_name", "tenant_id", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
    Index("ix_templates_tenant", "tenant_id", "id"),
)  # fmt: skip

#: Never changed: another text is another version.
template_versions = Table(
    "template_versions", metadata,
    Column("template_id", Uuid, ForeignKey("templates.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    tenant_column(), version_column(),
    Column("prompt", Text, nullable=False), Column("system", Text),
    Column("response_format", JSONB),
    Column("note", Text), Column("actor", Text, nullable=False),
    time_column("created_at", nullable=False, now=True),
)  # fmt: skip

schedules = Table(
    "schedules", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    Column("name", Text, nullable=False), Column("key_id", Uuid),
    #: Rises with each change; a run keeps the one that it was made of.
    Column("version", Integer, nullable=False, server_default="1"),
    Column("state", Text, nullable=False, server_default="enabled"),
    Column("spec", JSONB, nullable=False),
    #: Instants up to here are dealt with; the next one is `next_at`.
    time_column("last_instant"), time_column("next_at"),
    Column("error", JSONB),
    time_column("created_at", nullable=False, now=True), time_column("updated_at", nullable=False, now=True),
    time_column("deleted_at"),
    Index("uq_schedules_name", "tenant_id", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
    Index("ix_schedules_tenant", "tenant_id", "id"),
    Index("ix_schedules_next_at", "next_at", postgresql_where=text("state = 'enabled' AND deleted_at IS NULL")),
)  # fmt: skip

#: A page of a run's sample, and what a person said of it.
reviews = Table(
    "reviews", metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("job_id", Uuid, primary_key=True),
    #: The order in which they are shown, drawn with the sample.
    Column("number", Integer, nullable=False),
    tenant_column(), version_column(),
    #: right or wrong; NULL while nobody has looked.
    Column("verdict", Text), Column("note", Text), Column("actor", Text),
    Column("golden", Boolean, nullable=False, server_default=text("false")),
    time_column("created_at", nullable=False, now=True), time_column("judged_at"),
    Index("uq_reviews_number", "run_id", "number", unique=True),
)  # fmt: skip

#: A page whose right answer is known, to hold a model or a prompt against: kept when its run is gone.
goldens = Table(
    "goldens", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    Column("job_id", Uuid, nullable=False), Column("run_id", Uuid),
    Column("model", Text, nullable=False),
    #: The prompt with its picture, as a job's; the picture's blob is kept with it.
    Column("prompt", JSONB, nullable=False), Column("blob", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("actor", Text, nullable=False),
    time_column("created_at", nullable=False, now=True),
    Index("ix_goldens_tenant", "tenant_id", "id"),
    Index("ix_goldens_blob", "tenant_id", "blob"),
    Index("uq_goldens_job_id", "job_id", unique=True),
)  # fmt: skip
