"""The tables of models and of the machines that hold them. `tables` has the others."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB

from batchinfer.store.columns import class_column, metadata, tenant_column, time_column, version_column

#: What jobs name. `revision`, `path` and `facts` are those of the revision that is served.
models = Table(
    "models", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(),
    Column("name", Text, nullable=False, unique=True),
    Column("revision", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("facts", JSONB, nullable=False, server_default=text("'{}'")),
    version_column(),
    time_column("created_at", nullable=False, now=True),
)  # fmt: skip

#: Files of a model under one hash, side by side with others. `state` is a word of `domain/registry.py`.
model_revisions = Table(
    "model_revisions", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(), version_column(),
    Column("model_id", Uuid, ForeignKey("models.id"), nullable=False),
    Column("revision", Text, nullable=False),
    Column("source", JSONB, nullable=False, server_default=text("'{}'")),
    #: The folder; empty until there is one.
    Column("path", Text, nullable=False, server_default=""),
    Column("state", Text, nullable=False, server_default="registered"),
    #: `[{"name", "size", "sha256"}]`, the last None until it was read.
    Column("files", JSONB, nullable=False, server_default=text("'[]'")),
    Column("size_bytes", BigInteger, nullable=False, server_default="0"),
    Column("fetched_bytes", BigInteger, nullable=False, server_default="0"),
    Column("facts", JSONB, nullable=False, server_default=text("'{}'")),
    Column("error", JSONB),
    #: While it is fetched, or its files are read again: `{"bytes_per_s", "file"}`.
    Column("progress", JSONB),
    time_column("created_at", nullable=False, now=True), time_column("fetched_at"), time_column("verified_at"),
    #: When all files were last read and were what they should be.
    time_column("checked_at"),
    #: Files taken away again by `models prune`.
    time_column("pruned_at"),
    Index("uq_model_revisions_revision", "model_id", "revision", unique=True),
)  # fmt: skip

#: What is wanted: one row a (model, device) until it is stopped.
deployments = Table(
    "deployments", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(),
    Column("model_id", Uuid, ForeignKey("models.id"), nullable=False),
    Column("engine", Text, nullable=False, server_default="auto"),
    Column("device", Text, nullable=False, server_default="auto"),
    Column("replicas", Integer, nullable=False, server_default="1"),
    class_column(), version_column(),
    #: What is served; NULL: the model's own. The one before it, for a rollback, and the one that is to come.
    Column("revision", Text), Column("previous_revision", Text), Column("next_revision", Text),
    #: Of the swap under way, or the last: its word of `domain/swaps.py`, who, since when, and why it failed.
    Column("swap", JSONB),
    #: Golden prompts of its launch or of the last swap that switched: `engine: auto` holds vLLM to them at each load.
    Column("golden", JSONB),
    Column("dtype", Text, nullable=False, server_default="auto"),
    Column("quantisation", Text, nullable=False, server_default="none"),
    #: The most memory on its device that a replica may take; NULL: what the plan says.
    Column("memory_mib", Integer), Column("slots", Integer),
    #: Of the engine's class.
    Column("options", JSONB, nullable=False, server_default=text("'{}'")),
    #: What a host's labels must hold.
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    #: Who is placed first, the larger number.
    Column("priority", Integer, nullable=False, server_default="0"),
    #: Never unloaded for another or for being idle.
    Column("pinned", Boolean, nullable=False, server_default=text("false")),
    #: Unloaded after so many seconds without a job; NULL: never. `asleep`: it is.
    Column("idle_s", Integer), Column("asleep", Boolean, nullable=False, server_default=text("false")),
    #: Loads that failed one after the other, when the next may begin, and what the last one said.
    Column("failures", Integer, nullable=False, server_default="0"), time_column("next_try_at"),
    Column("error", JSONB),
    #: When a job of the model was last queued or running.
    time_column("last_used_at"),
    time_column("created_at", nullable=False, now=True), time_column("stopped_at"),
)  # fmt: skip

#: A machine with a keeper, which starts and ends the model workers that rows assign to it.
hosts = Table(
    "hosts", metadata,
    Column("host", Text, primary_key=True),
    version_column(),
    #: Of the keeper's process: a second keeper on one host takes the row over, and the first one ends.
    Column("keeper_id", Uuid, nullable=False),
    #: `[{"name", "kind", "total_mib", "title"}]`: cpu, cuda:0 and so on.
    Column("devices", JSONB, nullable=False, server_default=text("'[]'")),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    #: `{"cuda:0": {"taken_mib", "use"}}`: how they stood at the keeper's last look, with all processes on them.
    Column("loads", JSONB, nullable=False, server_default=text("'{}'")),
    #: No replica is placed here, and those that are here are drained.
    Column("draining", Boolean, nullable=False, server_default=text("false")),
    time_column("started_at", nullable=False, now=True),
    time_column("heartbeat_at", nullable=False, now=True), time_column("ended_at"),
)  # fmt: skip

#: What is: a model in a process, from the moment that it is planned. `state` and `wanted` are words of
#: `domain/replicas.py`.
replicas = Table(
    "replicas", metadata,
    Column("id", Uuid, primary_key=True),
    tenant_column(),
    Column("deployment_id", Uuid, ForeignKey("deployments.id")),
    Column("lease_id", Uuid),
    #: NULL where a worker was started by hand.
    Column("host", Text),
    Column("worker", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("revision", Text, nullable=False, server_default=""),
    Column("engine", Text, nullable=False, server_default=""),
    Column("device", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("wanted", Text, nullable=False, server_default="serve"),
    Column("verdict", JSONB), Column("error", JSONB),
    #: What was planned, by part, in MiB, and what it took once it was ready.
    Column("plan", JSONB), Column("planned_mib", Integer), Column("memory_mib", Integer),
    #: Seconds of the start by phase: start, read, copy, warm_up, verify.
    Column("phases", JSONB),
    #: Of the engine and the libraries under it.
    Column("versions", JSONB),
    version_column(),
    time_column("created_at", nullable=False, now=True), time_column("ready_at"), time_column("ended_at"),
    Index("ix_replicas_live", "host", postgresql_where=text("ended_at IS NULL")),
)  # fmt: skip
