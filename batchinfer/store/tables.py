"""Every table, once. Migrations build them, a test holds the two equal.

`jobs`, `results`, `attempts` and `job_blobs` are partitioned by the UUIDv7 of the job, a day each; `queue` is small and
hot: its rows go when their work ends. There are no foreign keys into partitioned tables: a day is dropped as a whole.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from batchinfer.store.act_tables import bulk_acts
from batchinfer.store.columns import SCHEMA_VERSION, class_column, metadata, tenant_column, time_column, version_column
from batchinfer.store.fleet_tables import models
from batchinfer.store.run_tables import documents
from batchinfer.store.series_tables import minutes

__all__ = ["SCHEMA_VERSION", "bulk_acts", "documents", "metadata", "minutes", "models"]

tenants = Table(
    "tenants", metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    #: Most jobs that may wait or run at once; NULL takes the setting quota_jobs.
    Column("max_jobs", BigInteger),
    #: Rows that it gets in each of its turns.
    Column("weight", SmallInteger, nullable=False, server_default="1"),
    version_column(),
    time_column("created_at", nullable=False, now=True),
    #: Days that its jobs and results are kept, 0 for ever; NULL takes the setting keep_days.
    Column("keep_days", Integer),
)  # fmt: skip

api_keys = Table(
    "api_keys", metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False, unique=True),
    Column("sha256", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    #: NULL takes the setting key_requests_per_minute.
    Column("requests_per_minute", Integer),
    version_column(),
    time_column("created_at", nullable=False, now=True),
    time_column("expires_at"), time_column("revoked_at"), time_column("last_used_at"),
    Index("ix_api_keys_tenant", "tenant_id", "id"),
)  # fmt: skip

leases = Table(
    "leases", metadata,
    Column("id", Uuid, primary_key=True),
    Column("role", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("model", Text), Column("device", Text),
    Column("slots", Integer, nullable=False, server_default="0"),
    Column("dead", Boolean, nullable=False, server_default=text("false")),
    Column("info", JSONB, nullable=False, server_default=text("'{}'")),
    version_column(),
    time_column("opened_at", nullable=False, now=True),
    time_column("heartbeat_at", nullable=False, now=True), time_column("ended_at"),
    Column("end_reason", Text),
    #: Neither has a column that a sign of life changes: it stays within its page.
    Index("ix_leases_alive", "role", postgresql_where=text("NOT dead")),
    Index("ix_leases_ended_at", "ended_at"),
)  # fmt: skip

jobs = Table(
    "jobs", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(), class_column(),
    Column("model", Text, nullable=False),
    Column("document_id", Uuid), Column("page", Integer),
    #: Of a batch: its line in the input file, from 1, and the name that the user gave it.
    Column("batch_id", Uuid), Column("line", Integer), Column("custom_id", Text),
    #: Whose usage it is: the API key that asked for it, and the schedule that did.
    Column("key_id", Uuid), Column("schedule_id", Uuid),
    #: The job that it repeats, and the newest job that repeats it.
    Column("origin_id", Uuid), Column("retry_id", Uuid),
    #: The trace that it belongs to, as `observe.traces` encodes it.
    Column("trace", Text),
    Column("prompt", JSONB, nullable=False),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
    #: NULL while a queue row says where the job is; set once, in the transaction that removes that row.
    Column("final_state", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("error", JSONB),
    #: Under which its answer is kept to serve again; NULL where it is not.
    Column("reuse_key", Text),
    time_column("created_at", nullable=False, now=True), time_column("started_at"),
    time_column("finished_at"), time_column("expires_at"),
    #: What it said and was told is gone; the row stays for the counts, and nobody sees it.
    time_column("deleted_at"),
    Index("ix_jobs_tenant", "tenant_id", "id"),
    #: Counted without a look at the rows: what was deleted is not in it.
    Index("ix_jobs_tenant_state", "tenant_id", "final_state", "id", postgresql_where=text("deleted_at IS NULL")),
    Index("ix_jobs_tenant_model", "tenant_id", "model", "id"),
    Index("ix_jobs_document", "document_id", "page", postgresql_where=text("document_id IS NOT NULL")),
    Index("ix_jobs_batch", "batch_id", "line", postgresql_where=text("batch_id IS NOT NULL")),
    #: Small, and good enough to count what ended in an hour: rows lie in the order in which they ended.
    Index("ix_jobs_finished_at", "finished_at", postgresql_using="brin"),
    postgresql_partition_by="RANGE (id)",
)  # fmt: skip

results = Table(
    "results", metadata,
    Column("job_id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    Column("attempt", Integer, nullable=False),
    Column("lease_id", Uuid, nullable=False),
    Column("text", Text, nullable=False),
    Column("finish_reason", Text, nullable=False),
    Column("usage", JSONB, nullable=False),
    Column("timings", JSONB, nullable=False, server_default=text("'{}'")),
    Column("model", Text, nullable=False), Column("revision", Text, nullable=False),
    Column("engine", Text, nullable=False),
    #: Of batchinfer, the engine and what lies under it, as its worker said; NULL where no model was asked.
    Column("versions", JSONB),
    Column("logprobs", JSONB),
    #: The job whose answer it is, where no model was asked: then nobody tried, and no tokens were used.
    Column("reused_from", Uuid),
    time_column("created_at", nullable=False, now=True),
    Index("ix_results_created_at", "created_at", postgresql_using="brin"),
    postgresql_partition_by="RANGE (job_id)",
)  # fmt: skip

#: Answers that may serve again, by what was asked (`domain.reuse`) and the revision; good while the result is there.
answers = Table(
    "answers", metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("revision", Text, primary_key=True),
    Column("job_id", Uuid, nullable=False),
    version_column(),
    time_column("created_at", nullable=False, now=True),
    Index("ix_answers_job_id", "job_id"),
)  # fmt: skip

attempts = Table(
    "attempts", metadata,
    Column("job_id", Uuid, primary_key=True),
    #: The value of `queue.attempt` during this try, so every ended try leaves one row and no more.
    Column("number", Integer, primary_key=True),
    tenant_column(), version_column(),
    Column("outcome", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("lease_id", Uuid), Column("worker", Text),
    Column("error", JSONB), Column("timings", JSONB),
    time_column("started_at"), time_column("finished_at", nullable=False, now=True),
    Index("ix_attempts_finished_at", "finished_at", postgresql_using="brin"),
    postgresql_partition_by="RANGE (job_id)",
)  # fmt: skip

#: Which blobs a job refers to, so that those of a deleted one can go that nobody else holds.
job_blobs = Table(
    "job_blobs", metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("sha256", Text, primary_key=True),
    tenant_column(), version_column(),
    Index("ix_job_blobs_blob", "tenant_id", "sha256"),
    postgresql_partition_by="RANGE (job_id)",
)  # fmt: skip

queue = Table(
    "queue", metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("subject_id", Uuid, nullable=False),
    tenant_column(), version_column(),
    Column("model", Text, nullable=False), class_column(),
    Column("rank", SmallInteger, nullable=False, server_default="1"),
    #: queued, running, or paused with its batch.
    Column("state", Text, nullable=False, server_default="queued"),
    #: Rises by one with each claim and never falls: half of the fence, with the lease.
    Column("attempt", Integer, nullable=False, server_default="0"),
    #: Claims that ended with a lost worker.
    Column("crashes", Integer, nullable=False, server_default="0"),
    #: Lost workers of which this row may have been the cause; one that was certainly not at work is no suspect.
    Column("suspected", Integer, nullable=False, server_default="0"),
    #: Claims that no user counts: given back by a worker that drained or yielded, preparing, rungs of a ladder.
    Column("released", Integer, nullable=False, server_default="0"),
    Column("lease_id", Uuid), time_column("leased_at"),
    time_column("available_at", nullable=False, now=True), time_column("expires_at"),
    time_column("created_at", nullable=False, now=True),
    Index("ix_queue_ready", "kind", "model", "rank", "tenant_id", "id", postgresql_where=text("state = 'queued'")),
    Index("ix_queue_lease", "lease_id", postgresql_where=text("state = 'running'")),
    Index("ix_queue_paused", "id", postgresql_where=text("state = 'paused'")),
    Index("ix_queue_expiry", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    postgresql_with={"fillfactor": "50", "autovacuum_vacuum_scale_factor": "0.0",
                     "autovacuum_vacuum_threshold": "5000", "autovacuum_vacuum_cost_delay": "0"},
)  # fmt: skip

blobs = Table(
    "blobs", metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("sha256", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("media_type", Text, nullable=False),
    version_column(),
    time_column("created_at", nullable=False, now=True),
    #: When a job or document last came to refer to it, to within an hour.
    time_column("used_at", nullable=False, now=True),
    #: Something that referred to it was deleted: from then on it goes, unless anything else refers to it.
    time_column("erase_at"),
    Index("ix_blobs_used_at", "used_at"),
    Index("ix_blobs_erase_at", "erase_at", postgresql_where=text("erase_at IS NOT NULL")),
)  # fmt: skip

#: What is to leave the system. While it waits or is under way, a queue row of kind deliver with its id says so.
outbox = Table(
    "outbox", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    #: Who delivers it.
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False), Column("subject_id", Uuid, nullable=False),
    Column("payload", JSONB, nullable=False, server_default=text("'{}'")),
    #: Of a webhook: where to. The endpoint may have been deleted since.
    Column("endpoint_id", Uuid),
    #: NULL while its queue row lives.
    Column("final_state", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", JSONB),
    time_column("created_at", nullable=False, now=True), time_column("finished_at"),
    Index("ix_outbox_subject", "subject_id", "id"),
    Index("ix_outbox_endpoint", "endpoint_id", "id", postgresql_where=text("endpoint_id IS NOT NULL")),
    Index("ix_outbox_waiting", "endpoint_id",
          postgresql_where=text("endpoint_id IS NOT NULL AND final_state IS NULL")),
)  # fmt: skip

#: Who hears of events. Secrets lie here as they are: each delivery is signed with them.
webhook_endpoints = Table(
    "webhook_endpoints", metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), nullable=False), version_column(),
    Column("name", Text, nullable=False), Column("url", Text, nullable=False),
    Column("event_types", ARRAY(Text), nullable=False),
    Column("secret", Text, nullable=False),
    Column("old_secret", Text), time_column("old_secret_until"),
    #: How long a delivery is tried: the setting delivery_hours, which upkeep keeps here.
    Column("give_up_s", Integer, nullable=False),
    #: Failed tries since one was taken, and the first of them.
    Column("failures", Integer, nullable=False, server_default="0"), time_column("failing_since"),
    Column("last_error", JSONB),
    #: Nothing is sent before; a hundred years away while it is disabled.
    time_column("held_until"),
    time_column("disabled_at"), Column("disabled_reason", Text),
    time_column("created_at", nullable=False, now=True), time_column("updated_at", nullable=False, now=True),
    Index("ix_webhook_endpoints_tenant", "tenant_id", "id"),
)  # fmt: skip

#: What users upload and what batches write. The bytes are a blob; a deleted file keeps its row and loses its blob.
files = Table(
    "files", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    Column("filename", Text, nullable=False), Column("purpose", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("blob", Text, nullable=False),
    time_column("created_at", nullable=False, now=True), time_column("expires_at"), time_column("deleted_at"),
    Index("ix_files_tenant", "tenant_id", "id"),
    Index("ix_files_blob", "blob"),
    Index("ix_files_expires_at", "expires_at", postgresql_where=text("expires_at IS NOT NULL AND deleted_at IS NULL")),
)  # fmt: skip

#: A file that comes in parts.
uploads = Table(
    "uploads", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    Column("filename", Text, nullable=False), Column("purpose", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("file_id", Uuid),
    Column("file_expires_s", Integer),
    time_column("created_at", nullable=False, now=True), time_column("expires_at", nullable=False),
    Index("ix_uploads_expires_at", "expires_at"),
)  # fmt: skip

upload_parts = Table(
    "upload_parts", metadata,
    Column("id", Uuid, primary_key=True),
    Column("upload_id", Uuid, ForeignKey("uploads.id", ondelete="CASCADE"), nullable=False),
    tenant_column(), version_column(),
    Column("size_bytes", BigInteger, nullable=False),
    Column("blob", Text, nullable=False),
    time_column("created_at", nullable=False, now=True),
    Index("ix_upload_parts_upload", "upload_id"),
    Index("ix_upload_parts_blob", "blob"),
)  # fmt: skip

#: While a batch is read or its files are written, a queue row of kind read or export with its id says so.
batches = Table(
    "batches", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(), class_column(),
    Column("status", Text, nullable=False, server_default="validating"),
    Column("endpoint", Text, nullable=False),
    Column("completion_window", Text, nullable=False),
    Column("model", Text), Column("key_id", Uuid), Column("trace", Text),
    #: NULL for a batch of documents: a run says where they are.
    Column("input_file_id", Uuid),
    Column("output_file_id", Uuid), Column("error_file_id", Uuid), Column("parent_id", Uuid),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
    Column("options", JSONB, nullable=False, server_default=text("'{}'")),
    Column("errors", JSONB, nullable=False, server_default=text("'[]'")),
    #: Lines of the file that were read and made jobs; reading goes on here after a crash.
    Column("lines_read", Integer, nullable=False, server_default="0"),
    #: Of a batch of documents: the listing and the documents that may still bring lines. It ends once none is left.
    Column("open", Integer, nullable=False, server_default="0"),
    *(Column(name, Integer, nullable=False, server_default="0")
      for name in ("total", "completed", "failed", "expired", "cancelled")),
    *(Column(name, BigInteger, nullable=False, server_default="0")
      for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "images")),
    Column("cache_hits", Integer, nullable=False, server_default="0"),
    time_column("created_at", nullable=False, now=True), time_column("expires_at", nullable=False),
    *(time_column(name) for name in ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at",
                               "cancelling_at", "cancelled_at", "paused_at")),
    Index("ix_batches_tenant", "tenant_id", "id"),
    Index("ix_batches_live", "status", postgresql_where=text(
        "status IN ('validating', 'in_progress', 'finalizing', 'cancelling')")),
)  # fmt: skip

idempotency_keys = Table(
    "idempotency_keys", metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("method", Text, primary_key=True), Column("route", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_sha256", LargeBinary, nullable=False),
    Column("resource", Text, nullable=False), Column("resource_id", Uuid, nullable=False),
    version_column(),
    time_column("created_at", nullable=False, now=True), time_column("expires_at", nullable=False),
    Index("ix_idempotency_keys_expires_at", "expires_at"),
)  # fmt: skip

events = Table(
    "events", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    Column("subject", Text, nullable=False), Column("subject_id", Uuid, nullable=False),
    Column("event", Text, nullable=False),
    Column("actor", Text), Column("data", JSONB, nullable=False, server_default=text("'{}'")),
    time_column("created_at", nullable=False, now=True),
    Index("ix_events_subject", "subject_id", "id"),
    Index("ix_events_fleet", "id", postgresql_where=text(
        "subject = ANY (ARRAY['model'::text, 'deployment'::text, 'replica'::text, 'host'::text])")),
)  # fmt: skip

#: Changes of state as users may follow them, a row a transaction, tenant and state; a batch's come from a trigger.
changes = Table(
    "changes", metadata,
    #: The transaction: what is below the oldest one under way is complete, and gets nothing more.
    Column("xid", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    tenant_column(), version_column(),
    Column("subject", Text, nullable=False), Column("state", Text, nullable=False),
    Column("ids", ARRAY(Uuid), nullable=False),
    time_column("created_at", nullable=False, now=True),
    Index("ix_changes_tenant", "tenant_id", "xid", "seq"),
)  # fmt: skip

#: What administrators did. `tenant_id` is the tenant that was acted on. Rows are only ever added.
audit = Table(
    "audit", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    Column("actor_tenant_id", Uuid, nullable=False),
    Column("actor", Text, nullable=False),
    #: NULL: the command line, or the installation itself.
    Column("key_id", Uuid),
    Column("action", Text, nullable=False), Column("subject", Text, nullable=False),
    Column("data", JSONB, nullable=False, server_default=text("'{}'")),
    time_column("created_at", nullable=False, now=True),
    Index("ix_audit_tenant", "tenant_id", "id"),
)  # fmt: skip

#: What results used, a day of UTC; raised in the transaction that stores them, and kept when they are gone.
usage = Table(
    "usage", metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("model", Text, primary_key=True),
    #: The nil UUID stands for none.
    Column("key_id", Uuid, primary_key=True), Column("schedule_id", Uuid, primary_key=True),
    #: As in `minutes`: sessions count in rows of their own, readers add up.
    Column("shard", SmallInteger, primary_key=True),
    *(Column(name, BigInteger, nullable=False, server_default="0")
      for name in ("jobs", "prompt_tokens", "completion_tokens", "image_tokens", "cached_tokens", "images",
                   "device_us")),
    version_column(),
)  # fmt: skip

pauses = Table(
    "pauses", metadata,
    Column("id", Uuid, primary_key=True),
    #: What is paused: rows that match every column that is not NULL. A narrower scope is one more such column.
    Column("tenant_id", Uuid), Column("model", Text),
    Column("actor", Text, nullable=False),
    version_column(),
    time_column("created_at", nullable=False, now=True),
)  # fmt: skip

backlog = Table(
    "backlog", metadata,
    #: The nil UUID counts all tenants together.
    Column("tenant_id", Uuid, primary_key=True),
    #: As in `minutes`: sessions count in rows of their own, readers add up.
    Column("shard", SmallInteger, primary_key=True),
    #: Jobs submitted less jobs ended; one row alone may be below zero.
    Column("jobs", BigInteger, nullable=False),
    version_column(),
    postgresql_with={"fillfactor": "50", "autovacuum_vacuum_scale_factor": "0.0",
                     "autovacuum_vacuum_threshold": "1000", "autovacuum_vacuum_cost_delay": "0"},
)  # fmt: skip

ticks = Table(
    "ticks", metadata,
    Column("name", Text, primary_key=True),
    version_column(),
    time_column("ticked_at", nullable=False, now=True),
)  # fmt: skip
