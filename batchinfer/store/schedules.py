"""Schedules: what each declares, and which instants are dealt with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.schedules import TRANSITIONS, Schedule, ScheduleState
from batchinfer.store.clean import as_jsonb, clean_text
from batchinfer.store.columns import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row

    from batchinfer.store.session import Transaction

_PLAIN = (
    "id", "tenant_id", "name", "version", "created_at", "updated_at", "last_instant", "next_at", "error", "key_id",
)  # fmt: skip
_INSERT = text("""
    INSERT INTO schedules (id, tenant_id, name, key_id, spec, state, last_instant, next_at, schema_version)
    VALUES (:id, :tenant_id, :name, :key_id, :spec, :state, :last_instant, :next_at, :schema)
    ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING RETURNING id
""")
_MINE = "tenant_id = :tenant_id AND deleted_at IS NULL"
_FIND = text(f"SELECT * FROM schedules WHERE id = :id AND {_MINE}")  # noqa: S608 - made of constants
_FIND_NAMED = text(f"SELECT * FROM schedules WHERE name = :name AND {_MINE}")  # noqa: S608 - made of constants
_LOCK = text(f"SELECT * FROM schedules WHERE id = :id AND {_MINE} FOR UPDATE")  # noqa: S608 - made of constants
_LOCK_NAMED = text(f"SELECT * FROM schedules WHERE name = :name AND {_MINE} FOR UPDATE")  # noqa: S608 - constants
_TAKEN = text(f"SELECT 1 FROM schedules WHERE name = :name AND id <> :id AND {_MINE}")  # noqa: S608 - made of constants
_CHANGE = text("""
    UPDATE schedules SET name = :name, spec = :spec, version = version + 1, updated_at = now(), error = NULL,
        last_instant = :last_instant, next_at = CASE WHEN state = 'enabled' THEN CAST(:next_at AS timestamptz) END
    WHERE id = :id
""")
_TURN = text("""
    UPDATE schedules SET state = :state, updated_at = now(), error = :error,
        last_instant = coalesce(CAST(:last_instant AS timestamptz), last_instant), next_at = :next_at
    WHERE id = :id AND state = ANY (CAST(:sources AS text[])) RETURNING id
""")
_DELETE = text("UPDATE schedules SET deleted_at = now(), next_at = NULL WHERE id = :id")
_PASS = text("UPDATE schedules SET last_instant = :last_instant, next_at = :next_at WHERE id = :id")
_ERROR = text("UPDATE schedules SET error = :error WHERE id = :id AND error IS DISTINCT FROM CAST(:error AS jsonb)")
_DUE = text("""
    SELECT id FROM schedules WHERE state = 'enabled' AND deleted_at IS NULL AND next_at <= now()
    ORDER BY next_at LIMIT :limit
""")
_CLAIM = text("""
    SELECT * FROM schedules WHERE id = :id AND state = 'enabled' AND deleted_at IS NULL AND next_at <= now()
    FOR UPDATE SKIP LOCKED
""")
_HOLD = text("SELECT * FROM schedules WHERE id = :id FOR UPDATE")


def insert_schedule(
    tx: Transaction,
    schedule_id: UUID,
    tenant_id: UUID,
    *,
    name: str,
    key_id: UUID | None,
    declared: Mapping[str, Any],
    state: ScheduleState,
    last_instant: datetime,
    next_at: datetime | None,
) -> bool:
    """Store a schedule whose instants up to `last_instant` are none of its business. False: the name is taken."""
    values = {
        "id": schedule_id, "tenant_id": tenant_id, "name": name, "key_id": key_id, "spec": as_jsonb(dict(declared)),
        "state": state.value, "last_instant": last_instant, "next_at": next_at, "schema": SCHEMA_VERSION,
    }  # fmt: skip
    return tx.execute(_INSERT, values).first() is not None


def find_schedule(tx: Transaction, tenant_id: UUID, schedule_id: UUID) -> Schedule | None:
    """A tenant's schedule, or None."""
    row = tx.execute(_FIND, {"id": schedule_id, "tenant_id": tenant_id}).first()
    return _as_schedule(row) if row else None


def find_named(tx: Transaction, tenant_id: UUID, name: str) -> Schedule | None:
    """The same by its name."""
    row = tx.execute(_FIND_NAMED, {"name": clean_text(name), "tenant_id": tenant_id}).first()
    return _as_schedule(row) if row else None


def lock_schedule(tx: Transaction, tenant_id: UUID, schedule_id: UUID) -> Schedule | None:
    """A tenant's schedule, its row locked until the transaction ends: before everything else that is locked."""
    row = tx.execute(_LOCK, {"id": schedule_id, "tenant_id": tenant_id}).first()
    return _as_schedule(row) if row else None


def lock_named(tx: Transaction, tenant_id: UUID, name: str) -> Schedule | None:
    """The same by its name."""
    row = tx.execute(_LOCK_NAMED, {"name": name, "tenant_id": tenant_id}).first()
    return _as_schedule(row) if row else None


def is_taken(tx: Transaction, tenant_id: UUID, name: str, *, but: UUID) -> bool:
    """Whether another schedule of the tenant has this name."""
    return tx.execute(_TAKEN, {"name": name, "tenant_id": tenant_id, "id": but}).first() is not None


def list_schedules(
    tx: Transaction,
    tenant_id: UUID,
    *,
    state: ScheduleState | None = None,
    name: str | None = None,
    after: UUID | None = None,
    limit: int = 20,
) -> list[Schedule]:
    """A tenant's schedules, newest first, beginning below the id `after`: those in a state, and with this in the name,
    in small or capital letters."""
    given: tuple[tuple[str, str, Any], ...] = (
        ("state", "state = :state", state and state.value),
        ("name", "position(lower(:name) IN lower(name)) > 0", name and clean_text(name)),
        ("after", "id < :after", after),
    )
    bounds = "".join(f" AND {condition}" for _, condition, value in given if value)
    values = {key: value for key, _, value in given if value}
    statement = text(f"SELECT * FROM schedules WHERE {_MINE} {bounds} ORDER BY id DESC LIMIT :limit")  # noqa: S608
    return [_as_schedule(row) for row in tx.execute(statement, {"tenant_id": tenant_id, "limit": limit, **values})]


def change_schedule(
    tx: Transaction,
    schedule_id: UUID,
    *,
    name: str,
    declared: Mapping[str, Any],
    last_instant: datetime,
    next_at: datetime,
) -> None:
    """Another declaration, a version up. The caller holds the schedule."""
    values = {"id": schedule_id, "name": name, "spec": as_jsonb(dict(declared)), "last_instant": last_instant}
    tx.execute(_CHANGE, values | {"next_at": next_at})


def turn_schedule(
    tx: Transaction,
    schedule_id: UUID,
    verb: str,
    *,
    last_instant: datetime | None = None,
    next_at: datetime | None = None,
    error: dict[str, Any] | None = None,
) -> bool:
    """Change its state by a verb of TRANSITIONS. False: it is in no state for that."""
    sources, state = TRANSITIONS[verb]
    values = {
        "id": schedule_id, "state": state.value, "sources": [source.value for source in sources],
        "last_instant": last_instant, "next_at": next_at, "error": as_jsonb(error),
    }  # fmt: skip
    return tx.execute(_TURN, values).first() is not None


def delete_schedule(tx: Transaction, schedule_id: UUID) -> None:
    """Fire it no more. The caller holds it."""
    tx.execute(_DELETE, {"id": schedule_id})


def list_due(tx: Transaction, *, limit: int = 1000) -> list[UUID]:
    """Schedules whose next instant has come, the longest overdue first."""
    return list(tx.execute(_DUE, {"limit": limit}).scalars())


def claim_due(tx: Transaction, schedule_id: UUID) -> Schedule | None:
    """One of them, locked until the transaction ends. None: somebody else has it, or had it."""
    row = tx.execute(_CLAIM, {"id": schedule_id}).first()
    return _as_schedule(row) if row else None


def pass_instants(tx: Transaction, schedule_id: UUID, *, last_instant: datetime, next_at: datetime) -> None:
    """All instants up to `last_instant` are dealt with. The caller holds the schedule."""
    tx.execute(_PASS, {"id": schedule_id, "last_instant": last_instant, "next_at": next_at})


def hold_schedule(tx: Transaction, schedule_id: UUID) -> Schedule | None:
    """A schedule whosever, also one that was deleted, locked until the transaction ends."""
    row = tx.execute(_HOLD, {"id": schedule_id}).first()
    return _as_schedule(row) if row else None


def note_error(tx: Transaction, schedule_id: UUID, error: dict[str, Any] | None) -> None:
    """What kept its last run from beginning; None: nothing did."""
    tx.execute(_ERROR, {"id": schedule_id, "error": as_jsonb(error)})


def _as_schedule(row: Row[Any]) -> Schedule:
    plain = {name: getattr(row, name) for name in _PLAIN}
    return Schedule(**plain, state=ScheduleState(row.state), declared=row.spec)
