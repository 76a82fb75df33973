"""The manifest of a run: its documents as they were listed, and how far the listing is.

What a run still waits for is in its batch's `open`: the listing, while `runs.listed_at` is not set, and each document
that is `listed` or `queued`. Whoever changes one of these changes `open` in the same transaction. Rows are taken in the
order of everybody: queue, documents, batches, runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.jobs import JobClass
from batchinfer.domain.runs import RunState
from batchinfer.store.clean import as_jsonb, clean_text
from batchinfer.store.columns import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.domain.sources import Entry
    from batchinfer.store.session import Transaction
    from batchinfer.store.unchanged import Same


@dataclass(frozen=True)
class Manifest:
    """How far the listing of a run is. Times are aware UTC."""

    run_id: UUID
    tenant_id: UUID
    #: As it was declared, with what it named resolved.
    spec: dict[str, Any]
    recipe: str
    job_class: JobClass
    key_id: UUID | None
    schedule_id: UUID | None
    #: The moment that the dates in its source mean, and the zone of its schedule's clocks.
    moment: datetime
    timezone: str | None
    #: {"group": how many groups are stored, "place": behind which entry, "notes": [...]}.
    cursor: dict[str, Any]
    documents: int
    closed: int
    listed_at: datetime | None


@dataclass(frozen=True)
class Listed:
    """An entry with what becomes of it: `same` where it is unchanged, `error` where it fails without being read."""

    id: UUID
    entry: Entry
    same: Same | None = None
    error: dict[str, Any] | None = None

    @property
    def stage(self) -> str:
        """Of its document."""
        return "skipped" if self.same else "closed" if self.error else "listed"


_LOAD = """
    SELECT r.id AS run_id, r.tenant_id, r.spec, r.recipe, b.class AS job_class, r.key_id, r.schedule_id,
           coalesce(r.instant, r.begun_at, r.created_at) AS moment,
           coalesce(r.spec #>> '{timing,timezone}', s.spec #>> '{timing,timezone}') AS timezone,
           coalesce(r.cursor, '{}') AS cursor, r.documents, r.closed, r.listed_at
    FROM runs r JOIN batches b ON b.id = r.id LEFT JOIN schedules s ON s.id = r.schedule_id
    WHERE r.id = :id
"""
_FIND = text(_LOAD)
_HOLD = text(f"{_LOAD} FOR UPDATE OF r")
_INSERT = text("""
    INSERT INTO documents (id, tenant_id, class, model, key_id, schedule_id, filename, media_type, blob, prompt,
        metadata, run_id, number, uri, size_bytes, stamp, stage, outcome, error, same_as, pages, closed_number,
        closed_at, rendered_at, expires_at, schema_version)
    SELECT e.id, :tenant_id, :class, :model, :key_id, :schedule_id, e.filename, e.media_type, e.blob, '{}', :metadata,
        :run_id, e.number, e.uri, e.size_bytes, e.stamp, e.stage, CASE e.stage WHEN 'closed' THEN 'failed' END, e.error,
        e.same_as, e.pages, e.closed_number, CASE WHEN e.stage <> 'listed' THEN now() END,
        CASE WHEN e.stage <> 'listed' THEN now() END, b.expires_at, :version
    FROM unnest(CAST(:ids AS uuid[]), CAST(:names AS text[]), CAST(:types AS text[]), CAST(:blobs AS text[]),
        CAST(:numbers AS int[]), CAST(:uris AS text[]), CAST(:sizes AS bigint[]), CAST(:stamps AS text[]),
        CAST(:stages AS text[]), CAST(:errors AS jsonb[]), CAST(:sames AS uuid[]), CAST(:pages AS int[]),
        CAST(:closed_numbers AS int[]))
        AS e (id, filename, media_type, blob, number, uri, size_bytes, stamp, stage, error, same_as, pages,
              closed_number)
    JOIN batches b ON b.id = :run_id
""")
_ADVANCE = text("""
    UPDATE runs SET cursor = :cursor, documents = documents + :documents, listed_bytes = listed_bytes + :bytes,
        skipped = skipped + :skipped, closed = closed + :closed, failed = failed + :closed
    WHERE id = :id
""")
_END = text("""
    UPDATE runs SET listed_at = now(), cause = CASE WHEN cause ->> 'part' = 'listing' THEN NULL ELSE cause END
    WHERE id = :id AND listed_at IS NULL RETURNING id
""")
_NOTE = text("""
    UPDATE runs SET cause = coalesce(CASE WHEN cause ->> 'part' = 'listing' THEN NULL ELSE cause END, :cause),
        cursor = jsonb_set(coalesce(cursor, '{}'), '{notes}', coalesce(cursor -> 'notes', '[]') || :cause)
    WHERE id = :id
""")
_CAUSE_ONCE = text("UPDATE runs SET cause = :cause WHERE id = :id AND cause IS NULL")
_FINISH = text("""
    UPDATE runs SET finished_at = now(), cause = coalesce(cause, :cause) WHERE id = :id AND finished_at IS NULL
""")


def find_manifest(tx: Transaction, run_id: UUID) -> Manifest | None:
    """How far the listing of a run that has begun is, or None."""
    row = tx.execute(_FIND, {"id": run_id}).first()
    return Manifest(**{**row._mapping, "job_class": JobClass(row.job_class)}) if row else None


def hold_manifest(tx: Transaction, run_id: UUID) -> Manifest:
    """The same, its run locked until the transaction ends. The caller holds its batch."""
    row = tx.execute(_HOLD, {"id": run_id}).one()
    return Manifest(**{**row._mapping, "job_class": JobClass(row.job_class)})


def insert_documents(tx: Transaction, manifest: Manifest, group: Sequence[Listed]) -> None:
    """Store the next documents of a run, numbered on. The caller holds the manifest; `advance` has to follow."""
    numbers, closed_numbers, closed = [], [], manifest.closed
    for number, one in enumerate(group, manifest.documents + 1):
        numbers.append(number)
        closed += one.stage == "closed"
        closed_numbers.append(closed if one.stage == "closed" else None)
    pipeline = manifest.spec["pipeline"]
    tx.execute(
        _INSERT,
        {
            "tenant_id": manifest.tenant_id, "run_id": manifest.run_id, "class": manifest.job_class.value,
            "model": pipeline["model"], "key_id": manifest.key_id, "schedule_id": manifest.schedule_id,
            "metadata": as_jsonb(manifest.spec.get("metadata") or {}), "version": SCHEMA_VERSION,
            "ids": [one.id for one in group],
            "names": [clean_text(one.entry.name) for one in group],
            "types": [one.entry.media_type for one in group],
            "blobs": [one.entry.blob for one in group],
            "numbers": numbers,
            "uris": [clean_text(one.entry.uri) for one in group],
            "sizes": [one.entry.size_bytes for one in group],
            "stamps": [one.entry.stamp for one in group],
            "stages": [one.stage for one in group],
            "errors": [as_jsonb(one.error) for one in group],
            "sames": [one.same.document_id if one.same else None for one in group],
            "pages": [one.same.pages if one.same else None for one in group],
            "closed_numbers": closed_numbers,
        },
    )  # fmt: skip


def advance(tx: Transaction, run_id: UUID, group: Sequence[Listed], cursor: dict[str, Any]) -> None:
    """So far is the listing now, with one group more. The caller holds the manifest."""
    stages = [one.stage for one in group]
    values = {
        "id": run_id, "cursor": as_jsonb(cursor), "documents": len(group),
        "bytes": sum(one.entry.size_bytes or 0 for one in group),
        "skipped": stages.count("skipped"), "closed": stages.count("closed"),
    }  # fmt: skip
    tx.execute(_ADVANCE, values)


def end_listing(tx: Transaction, run_id: UUID) -> bool:
    """The source of a run is listed, or will not be. False: so it was before. Where it is True, the caller takes one
    from what is open, in this transaction."""
    return tx.execute(_END, {"id": run_id}).first() is not None


def note(tx: Transaction, run_id: UUID, cause: dict[str, Any]) -> None:
    """Keep what a reader of the run has to know; it is its cause too, where it has none."""
    tx.execute(_NOTE, {"id": run_id, "cause": as_jsonb(cause)})


_SET_CAUSE = text("UPDATE runs SET cause = :cause WHERE id = :id AND (cause IS NULL OR cause ->> 'part' = 'listing')")


def set_listing_cause(tx: Transaction, run_id: UUID, cause: dict[str, Any]) -> None:
    """Why the listing fails at the moment, or failed; forgotten once it goes well."""
    tx.execute(_SET_CAUSE, {"id": run_id, "cause": as_jsonb(cause | {"part": "listing"})})


def set_cause_once(tx: Transaction, run_id: UUID, cause: dict[str, Any]) -> None:
    """Why a run ends before all of it was read; where it has a cause already, that stays."""
    tx.execute(_CAUSE_ONCE, {"id": run_id, "cause": as_jsonb(cause)})


def finish_run(tx: Transaction, run_id: UUID, cause: dict[str, Any] | None) -> None:
    """A run whose batch has ended without anybody having written its report."""
    tx.execute(_FINISH, {"id": run_id, "cause": as_jsonb(cause)})


_LIVE = text("""
    SELECT r.id, r.tenant_id, b.status, b.class AS job_class, b.errors, b.open, b.expires_at <= now() AS overdue,
           b.paused_at IS NOT NULL AS paused, r.listed_at IS NOT NULL AS listed,
           EXISTS (SELECT 1 FROM queue q WHERE q.id = r.id) AS worked_on,
           EXISTS (SELECT 1 FROM documents d WHERE d.run_id = r.id AND d.stage = 'listed') AS has_listed,
           EXISTS (SELECT 1 FROM documents d WHERE d.run_id = r.id AND d.stage = 'queued') AS has_queued
    FROM runs r JOIN batches b ON b.id = r.id
    WHERE r.finished_at IS NULL AND r.state = :state ORDER BY r.id LIMIT :limit
""")


@dataclass(frozen=True)
class LiveRun:
    """A run that has begun and not ended, as upkeep looks at it."""

    id: UUID
    tenant_id: UUID
    status: str
    job_class: JobClass
    errors: list[dict[str, Any]] = field(default_factory=list)
    open: int = 0
    #: Its window is over.
    overdue: bool = False
    paused: bool = False
    listed: bool = False
    #: Whether a queue row lists or ends it.
    worked_on: bool = False
    has_listed: bool = False
    has_queued: bool = False


def list_live(tx: Transaction, *, limit: int = 1000) -> list[LiveRun]:
    """Runs that have begun and not ended, oldest first."""
    rows = tx.execute(_LIVE, {"state": RunState.RUNNING.value, "limit": limit})
    return [LiveRun(**{**row._mapping, "job_class": JobClass(row.job_class)}) for row in rows]
