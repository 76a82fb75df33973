"""Schedules with runs in every state, as nights leave them: for tests of the pages that show them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import new_id
from batchinfer.domain.limits import Limits
from batchinfer.domain.runs import RunState, parse_spec
from batchinfer.domain.schedules import make_run_spec
from batchinfer.observe.clock import utc_now
from batchinfer.services import models, runs, schedules
from batchinfer.store import runs as store

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from batchinfer.domain.schedules import Schedule
    from batchinfer.services.context import Caller, Context

MODEL = "reader"
#: What the row of a run and the row of its batch say in each state that a run can be in.
STATES: dict[RunState, tuple[str, str | None]] = {
    RunState.DUE: ("due", None),
    RunState.RUNNING: ("running", "status = 'in_progress', total = 400, completed = 120"),
    RunState.PAUSED: (
        "running",
        "status = 'in_progress', paused_at = now(), total = 400, completed = 120, failed = 90",
    ),
    RunState.FINALIZING: ("running", "status = 'finalizing', total = 400, completed = 400"),
    RunState.COMPLETED: ("running", "status = 'completed', total = 1204, completed = 1204"),
    RunState.COMPLETED_WITH_ERRORS: ("running", "status = 'completed', total = 1204, completed = 1180, failed = 24"),
    RunState.FAILED: ("running", "status = 'failed', total = 0"),
    RunState.CANCELLED: ("running", "status = 'cancelled', total = 400, completed = 100, cancelled = 300"),
    RunState.EXPIRED: ("running", "status = 'expired', total = 400, completed = 100, expired = 300"),
    RunState.SKIPPED: ("skipped", None),
    RunState.MISSED: ("missed", None),
}


def declare(folder: Path, name: str = "nightly-invoices", **changes: Any) -> dict[str, Any]:
    """A schedule's declaration that the service takes."""
    return {
        "name": name,
        "timing": {"cron": "30 2 * * 1-5", "timezone": "Europe/Berlin", "window": "5h"},
        "source": {"uri": str(folder)},
        "pipeline": {"model": MODEL, "prompt": "Read page {{ page }}.\nSay what it says."},
        **changes,
    }


def make_schedule(
    ctx: Context, caller: Caller, folder: Path, name: str = "nightly-invoices", **changes: Any
) -> Schedule:
    """A schedule that is kept; the setting `source_folders` has to name the folder."""
    models.register_model(ctx, MODEL, "/nowhere", "0123456789abcdef")
    return schedules.create_schedule(ctx, caller, declare(folder, name, **changes))[0]


def put_run(ctx: Context, schedule: Schedule, state: RunState, *, nights_ago: int = 0, by_hand: bool = False) -> UUID:
    """A run of a schedule in a state, without the work behind it."""
    own, batch = STATES[state]
    spec = make_run_spec(schedule.declared)
    instant = None if by_hand else (utc_now() - timedelta(days=nights_ago)).replace(microsecond=0)
    begun = batch is not None
    run = store.NewRun(
        new_id(), schedule.tenant_id, spec, schedule.name, schedule.key_id, schedule.id, schedule.version, instant,
        state=RunState.DUE if begun else RunState(own),
        cause=None if begun or own == "due" else {"code": own, "message": f"It was {own}."},
    )  # fmt: skip
    with ctx.db.transaction() as tx:
        assert store.insert_run(tx, run)
        if begun:
            runs.begin(tx, store.load_runs(tx, [run.id])[run.id], parse_spec(spec, Limits.of(ctx.settings)))
            tx.execute(text("DELETE FROM queue WHERE id = :id"), {"id": run.id})
            tx.execute(text(f"UPDATE batches SET {batch} WHERE id = :id"), {"id": run.id})  # noqa: S608 - constants
            done = state not in (RunState.RUNNING, RunState.PAUSED, RunState.FINALIZING)
            tx.execute(
                text("UPDATE runs SET documents = 301, skipped = 12, pages_blank = 9, pages_fallback = 4, "
                     "finished_at = CASE WHEN :done THEN now() + interval '95 minutes' END WHERE id = :id"),
                {"id": run.id, "done": done},
            )  # fmt: skip
    return run.id
