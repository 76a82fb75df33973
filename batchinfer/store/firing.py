"""Runs of schedules that have fired: which are due, which work, which have outlived their window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class DueRun:
    """A run whose time to begin has come."""

    id: UUID
    schedule_id: UUID


@dataclass(frozen=True)
class Working:
    """A run that goes on when its window closes, and whose class is not yet the last one."""

    id: UUID
    tenant_id: UUID
    schedule_id: UUID
    due_at: datetime


_DUE = text("""
    SELECT id, schedule_id FROM runs
    WHERE state = 'due' AND finished_at IS NULL AND due_at <= now() AND schedule_id IS NOT NULL
    ORDER BY due_at, instant, id LIMIT :limit
""")
_WAITING = text("""
    SELECT id FROM runs WHERE schedule_id = :schedule_id AND state = 'due' AND finished_at IS NULL ORDER BY due_at, id
""")
_LIVE = text("""
    SELECT r.id FROM runs r JOIN batches b ON b.id = r.id
    WHERE r.schedule_id = :schedule_id AND r.state = 'running' AND r.finished_at IS NULL
      AND b.status IN ('validating', 'in_progress', 'finalizing')
    ORDER BY r.id
""")
_WORKING = text("""
    SELECT r.id, r.tenant_id, r.schedule_id, r.due_at
    FROM runs r JOIN schedules s ON s.id = r.schedule_id JOIN batches b ON b.id = r.id
    WHERE r.state = 'running' AND r.finished_at IS NULL AND b.status = 'in_progress' AND b.class <> 'batch'
      AND s.spec #>> '{timing,at_deadline}' = 'continue' AND s.spec #>> '{timing,window}' IS NOT NULL
    ORDER BY r.id LIMIT :limit
""")


def list_due(tx: Transaction, *, limit: int = 1000) -> list[DueRun]:
    """Runs of schedules that are to begin, in the order of their times."""
    return [DueRun(**row._mapping) for row in tx.execute(_DUE, {"limit": limit})]


def list_waiting(tx: Transaction, schedule_id: UUID) -> list[UUID]:
    """The due runs of a schedule, also those whose time is still to come."""
    return list(tx.execute(_WAITING, {"schedule_id": schedule_id}).scalars())


def list_live(tx: Transaction, schedule_id: UUID) -> list[UUID]:
    """The runs of a schedule that have begun and not ended, nor are being cancelled."""
    return list(tx.execute(_LIVE, {"schedule_id": schedule_id}).scalars())


def list_working(tx: Transaction, *, limit: int = 1000) -> list[Working]:
    """Runs that go on when their window closes, and are not of the class batch."""
    return [Working(**row._mapping) for row in tx.execute(_WORKING, {"limit": limit})]
