"""Runs: what each is to do and how it stands. A run that has begun shares its id with a batch of documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.runs import Run, RunCounts, RunState, derive_state
from batchinfer.store.batches import load_batches
from batchinfer.store.clean import as_jsonb
from batchinfer.store.columns import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row

    from batchinfer.store.session import Transaction

_COUNTS = ("documents", "skipped", "closed", "failed", "with_errors", "pages_blank", "pages_fallback", "listed_bytes")
_PLAIN = (
    "id", "tenant_id", "name", "key_id", "spec", "created_at", "schedule_id", "schedule_version", "instant", "due_at",
    "begun_at", "listed_at", "finished_at", "cause", "recipe", "page_bytes", "shards", "files",
)  # fmt: skip


@dataclass(frozen=True)
class NewRun:
    """A run to be stored as due. `spec` is as it was declared; its window is counted from `due_at`."""

    id: UUID
    tenant_id: UUID
    spec: dict[str, Any]
    name: str | None = None
    key_id: UUID | None = None
    schedule_id: UUID | None = None
    schedule_version: int | None = None
    instant: datetime | None = None
    due_at: datetime | None = None
    state: RunState = RunState.DUE
    cause: dict[str, Any] | None = None


_INSERT = text("""
    INSERT INTO runs (id, tenant_id, name, key_id, schedule_id, schedule_version, instant, due_at, state, spec, cause,
        finished_at, schema_version)
    VALUES (:id, :tenant_id, :name, :key_id, :schedule_id, :schedule_version, :instant,
        coalesce(CAST(:due_at AS timestamptz), now()), :state, :spec, :cause, CASE WHEN :state <> 'due' THEN now() END,
        :version)
    ON CONFLICT (schedule_id, instant) DO NOTHING RETURNING id
""")
_FIND = text("SELECT * FROM runs WHERE id = :id AND tenant_id = :tenant_id")
_LOAD = text("SELECT * FROM runs WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id")
_LOCK = text("SELECT * FROM runs WHERE id = :id FOR UPDATE")
_BEGIN = text("""
    UPDATE runs SET state = 'running', begun_at = now(), spec = :spec, recipe = :recipe
    WHERE id = :id AND state = 'due' RETURNING id
""")
_PASS_OVER = text("""
    UPDATE runs SET state = :state, cause = :cause, finished_at = now() WHERE id = :id AND state = 'due' RETURNING id
""")
_CAUSE = text("UPDATE runs SET cause = :cause, recent = '{}' WHERE id = :id")


def insert_run(tx: Transaction, run: NewRun) -> bool:
    """Store a run. False: its schedule has one for this instant already."""
    values = vars(run) | {
        "state": run.state.value, "spec": as_jsonb(run.spec), "cause": as_jsonb(run.cause), "version": SCHEMA_VERSION
    }  # fmt: skip
    return tx.execute(_INSERT, values).first() is not None


def begin_run(tx: Transaction, run_id: UUID, *, spec: dict[str, Any], recipe: str) -> bool:
    """A due run begins, its spec resolved. False: another one began it, or it was passed over."""
    values = {"id": run_id, "spec": as_jsonb(spec), "recipe": recipe}
    return tx.execute(_BEGIN, values).first() is not None


def pass_over(tx: Transaction, run_id: UUID, state: RunState, cause: dict[str, Any]) -> bool:
    """A due run ends without having begun, as skipped, missed, cancelled or failed. False: it was not due."""
    values = {"id": run_id, "state": state.value, "cause": as_jsonb(cause)}
    return tx.execute(_PASS_OVER, values).first() is not None


def set_cause(tx: Transaction, run_id: UUID, cause: dict[str, Any] | None) -> None:
    """Say why a run stands still, or that it does no longer; the count of failed pages begins anew."""
    tx.execute(_CAUSE, {"id": run_id, "cause": as_jsonb(cause) if cause is not None else None})


def find_run(tx: Transaction, tenant_id: UUID, run_id: UUID) -> Run | None:
    """A tenant's run, or None."""
    row = tx.execute(_FIND, {"id": run_id, "tenant_id": tenant_id}).first()
    return _put_together(tx, [row])[0] if row else None


def load_runs(tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, Run]:
    """Runs by id, whosever; those that are gone are missing from the answer."""
    return {run.id: run for run in _put_together(tx, tx.execute(_LOAD, {"ids": list(ids)}).all())}


def lock_run(tx: Transaction, run_id: UUID) -> Run | None:
    """The same for one, its row locked until the transaction ends: after documents and batches, before counters."""
    row = tx.execute(_LOCK, {"id": run_id}).first()
    return _put_together(tx, [row])[0] if row else None


def list_runs(
    tx: Transaction, tenant_id: UUID, *, schedule_id: UUID | None = None, after: UUID | None = None, limit: int = 20
) -> list[Run]:
    """A tenant's runs, newest first, beginning below the id `after`."""
    values: dict[str, Any] = {"tenant_id": tenant_id, "limit": limit}
    bounds = ""
    for name, condition, value in (
        ("schedule_id", "AND schedule_id = :schedule_id", schedule_id), ("after", "AND id < :after", after)
    ):  # fmt: skip
        if value is not None:
            bounds, values[name] = f"{bounds} {condition}", value
    statement = text(f"SELECT * FROM runs WHERE tenant_id = :tenant_id {bounds} ORDER BY id DESC LIMIT :limit")  # noqa: S608
    return _put_together(tx, tx.execute(statement, values).all())


def _put_together(tx: Transaction, rows: Sequence[Row[Any]]) -> list[Run]:
    held = load_batches(tx, [row.id for row in rows])
    return [_as_run(row, held[row.id].batch if row.id in held else None) for row in rows]


def _as_run(row: Row[Any], batch: Any) -> Run:
    counts = RunCounts(**{name: getattr(row, name) for name in _COUNTS})
    return Run(
        **{name: getattr(row, name) for name in _PLAIN},
        counts=counts,
        state=derive_state(RunState(row.state), batch, counts),
        batch=batch,
    )
